/*
 * replay.h -- velocities without gradients: the same forward many times over, which a GPU replays from a CUDA
 * graph (at_graph).
 *
 * A forward is known by the shapes of its inputs and by the weights it reads: the base's own, or those of a
 * policy with its pairs in them or beside them, whose memory stays where it is while their values change
 * (lora_ready).  A pass with `lora`, which casts and stacks its pairs as it runs, is not replayed.
 */
#ifndef REPLAY_H
#define REPLAY_H
#include "sampler/sample.h"

struct replays;
struct replays *replays_new(void);
void replays_free(struct replays *r); /* NULL is fine */
/* sampler_velocity's value.  *s and what pass->merged points to stay where they are until replays_free. */
at_t replays_velocity(struct replays *r, const struct sampler *s, const struct pass *pass, at_t x_BCHW,
		      at_t t_B, const struct cond *c);
/* CUDA graphs that are replayed now, and forwards that were replays of one. */
void replays_count(const struct replays *r, int *graphs, int64_t *replayed);

#endif
