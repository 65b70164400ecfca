/*
 * archive.h -- what an epoch sampled, for later: rollouts/epoch-000012.rank-0000.safetensors.zst, which `zstd
 * -d` turns into an ordinary safetensors file.
 *
 * x0 (N, C, H, W) float32, prompt_id (N) int64, sample (N) int64 (global index), r, advantage and
 * reward.<name> (N) float32; NAN where an image has no reward.  Metadata: epoch, step, seed, policy (hash of
 * the adapter that sampled), prompts (JSON object: the distinct prompts by id).
 */
#ifndef ARCHIVE_H
#define ARCHIVE_H
#include "trainer/trainer.h"

/* Collective: each rank writes its share. */
int archive_write(struct trainer *t, const struct samples *s, struct err *e);

#endif
