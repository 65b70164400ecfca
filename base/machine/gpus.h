/*
 * gpus.h -- which GPUs this process sees, asked without starting CUDA: it reads CUDA_VISIBLE_DEVICES once,
 * when it starts, and what a process is to see must be settled before.
 */
#ifndef GPUS_H
#define GPUS_H

#define GPUS_MOST 128
#define GPU_NAME  96

struct gpu {
	char name[GPU_NAME]; /* as CUDA_VISIBLE_DEVICES calls it: "3", "GPU-5bf...", "MIG-9d1..." */
	char id[GPU_NAME];   /* its UUID: the same in every process that sees it; "": not known */
};

/* Stands for "/" where /proc is looked for: "", or a test's folder. */
extern const char *gpus_root;

/* Those that the driver lets this process have, at most GPUS_MOST: NVML's, or where there is no NVML those in
 * /proc/driver/nvidia, of which only a single one has an id.  0: no driver. */
int gpus_of_machine(struct gpu *all);
/* Those of all[0 .. n) that CUDA_VISIBLE_DEVICES leaves, in its order, at most GPUS_MOST; `visible` NULL: not
 * set, and all are left.  CUDA's own rules: an entry that names no GPU ends the list, and a GPU that is named
 * twice leaves none. */
int gpus_left(struct gpu *out, const char *visible, const struct gpu *all, int n);
/* Both, with the environment's CUDA_VISIBLE_DEVICES. */
int gpus_visible(struct gpu *out);

#endif
