/*
 * taps.h -- intermediates of a forward, by the names that diffusers and transformers give the modules that
 * make them; for finding the first place where two implementations part.
 *
 * Nothing is recorded, and a tap costs one comparison, unless the thread has opened a list.
 */
#ifndef TAPS_H
#define TAPS_H
#include "aten/safetensors.h"

struct taps {
	int n, cap;
	struct st_item *item; /* in the order of the forward; names and tensors are owned */
};

void taps_open(struct taps *t);    /* every tap() of this thread goes to t, which starts empty */
void taps_close(void);             /* no longer */
void taps_release(struct taps *t); /* frees the items */

/* Records x under a name made as by printf. */
void tap(at_t x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
