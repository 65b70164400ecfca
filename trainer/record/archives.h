/*
 * archives.h -- rollout archives as the epochs of a run: what `contraflow replay` trains from.
 *
 * A file is a safetensors file, plain or compressed (NAME.zst), as log.rollouts_every writes it (archive.h)
 * or a few lines of Python do: x0 (N, C, H, W) float32      the clean latents prompt_id (N) int64 names of
 * the prompts in the metadata r (N) float32                optimality probabilities in [0, 1]; NAN: no score
 *   sample (N) int64             optional: places of the rows in their epoch; else the order in the file
 *   advantage (N) float32        optional; else (2 r - 1) advantage.clip
 *   reward.NAME (N) float32      optional, for the log
 *   timesteps (N, T) float32     optional: 1000 t of the T noise levels that each row is trained at
 *   noise (N, T, C, H, W) float32  optional, with timesteps: eps of each
 * and as metadata `prompts`, a JSON object from prompt_id to text.
 * Each file is an epoch; files that follow one another, have the same `epoch` in their metadata and no sample
 * in common are the ranks' parts of one.  The rows of an epoch are put in the order of their samples, and
 * rows of one prompt that follow one another are a group.
 */
#ifndef ARCHIVES_H
#define ARCHIVES_H
#include "aten/at.h"
#include "data/prompts.h"
#include "dist/dist.h"

struct archive_epoch {
	int files;
	char **file;
	int64_t n;
	int64_t *file_of, *row_of;     /* n: where each sample lies */
	int64_t *prompt;               /* n: index in archives.prompts */
	double *r, *advantage, *total; /* n; NAN: there is none.  total: sum of reward.NAME */
	int64_t levels;                /* T; 0: the file has no timesteps */
	bool noise, advantages;
	struct at_dims chw;
	char *policy; /* hash of the adapter that sampled, "": not said */
};
struct archives {
	int n;
	struct archive_epoch *epoch;
	struct prompts prompts; /* of all */
	uint64_t hash;          /* of all files' bytes, in order */
};

/* Collective: rank 0 reads every file and checks it, all ranks get what it found; x0 and noise stay where
 * they are.  An error names file, tensor and row. */
int archives_open(struct archives *a, struct dist *d, const char *const *path, int n, struct err *e);
void archives_free(struct archives *a);

/* Rows of samples first .. first + count - 1 of epoch i, on the CPU, kept by the caller: x0 (count, C, H, W),
 * timesteps (count, T) float32 and noise (count, T, C, H, W), NULL where the files have none. */
int archives_take(const struct archives *a, int i, int64_t first, int64_t count, at_t *x0, at_t *timesteps,
		  at_t *noise, struct err *e);

#endif
