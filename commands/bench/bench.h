/*
 * bench.h -- the phases of a step on random weights of any size, without files: what `contraflow bench`
 * times.
 *
 * The code that is timed is the trainer's own: sampling with the old policy's merged weights, and update_step
 * with its forwards, backward, all-reduce, clipping, AdamW and EMA.  Text and rewards are left out, and
 * decoding where the model is a transformer alone.
 */
#ifndef BENCH_H
#define BENCH_H
#include "models/vae/vae.h"
#include "trainer/trainer.h"

#define BENCH_MOST_REPEATS 100

/* What may change between two measurements of one model. */
struct bench_setting {
	const char *vae_dtype, *merge; /* policy.merge */
	int64_t batch, micro, checkpoint, vae_batch;
	bool fp8, graphs, update_graphs;
	double kl;
};
struct bench {
	const char *model, *dtype, *device;
	int64_t latent, text_tokens, groups, group_size, steps, levels, rank, repeats;
	struct bench_setting now;
	struct experiment x;
	struct trainer t;
	struct samples s;
	struct vae vae;
	double forward; /* FLOP of one sample's forward; adapters left out */
	double gemm;    /* FLOP/s of a large product on this rank */
	double copy;    /* bytes/s of a large copy, read and written bytes both counted */
};
/* Seconds: medians over the repeats, of the slowest rank. */
struct bench_times {
	double rollout, update;
	double reduce, refresh; /* of the update: the all-reduce; merging the old policy's weights */
	double decode;          /* latents to images on the CPU; 0 without a VAE */
	double peak_bytes;      /* of this rank's tensors since the setting was chosen; on a GPU what libtorch
				   reserved */
	int graphs;             /* CUDA graphs of forwards, and how many forwards were replays */
	int64_t replayed;
	bool update_replayed;
};

/* Makes model, adapter and samples; b's sizes are filled in where they are 0.  b->t.dist is open. */
int bench_open(struct bench *b, struct dist *d, struct err *e);
void bench_close(struct bench *b); /* after a failed bench_open as well */
void bench_ceilings(struct bench *b);
int bench_choose(struct bench *b, const struct bench_setting *s, struct err *e);
void bench_measure(struct bench *b, struct bench_times *out); /* one round more than `repeats`: it warms up */
/* One round more, each phase's kernels into FOLDER/rollout.json, update.json and decode.json (trace.h). */
int bench_trace(struct bench *b, const char *folder, struct err *e);
double bench_now(const struct bench *b); /* seconds, when all that was asked of the device is done */
/* Seconds of this rank for 1,152 images of 9 levels (48 prompts, 24 images each), times the ranks. */
double bench_step(const struct bench *b, const struct bench_times *m);

#endif
