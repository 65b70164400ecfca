/*
 * made_up.h -- what the tests of the mixture share: rewards that look at one pixel (value, sample, 0), waits
 * that end, images handed over.  Behind cmocka.h.
 */
#ifndef MADE_UP_H
#define MADE_UP_H
#include "base/mem.h"
#include "rewards/mixture/mixture.h"
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline int value_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			      struct err *e)
{
	(void)state, (void)e;
	for (int i = 0; i < n; i++) {
		out[i].ok = true;
		out[i].value = item[i].rgb[0];
		out[i].sub[1] = item[i].rgb[1];
	}
	return 0;
}

static sem_t go, arrived;

static inline void begin_waits(void)
{
	sem_init(&go, 0, 0);
	sem_init(&arrived, 0, 0);
}

/* False after 20 s: a test that would hang fails instead. */
static inline bool wait_for(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	while (sem_timedwait(s, &until))
		if (errno != EINTR)
			return false;
	return true;
}

/* Slow: waits until the caller lets it go on, once a call. */
static inline int slow_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			     struct err *e)
{
	if (!wait_for(&go))
		return err_set(e, "the caller was blocked");
	return value_score(state, item, n, out, e);
}

static const struct reward_type value_reward = {
	.abi = REWARD_ABI, .name = "value", .flags = REWARD_THREAD_SAFE, .score = value_score
};

/* Hands over pixels[i] as sample i, `batch` at a time, from a buffer that is spoilt at once. */
static inline void submit_all(struct mixture *m, struct mixture_scores *s, uint8_t (*pixel)[3], int n,
			      int batch)
{
	for (int first = 0; first < n; first += batch) {
		int k = n - first < batch ? n - first : batch;
		struct reward_item *item = mem_alloc((size_t)k * sizeof *item);
		uint8_t *copy = memcpy(mem_alloc((size_t)k * 3), pixel[first], (size_t)k * 3);
		for (int i = 0; i < k; i++)
			item[i] = (struct reward_item) { copy + 3 * i, 1, 1, "p", "{}", 0 };
		mixture_submit(m, s, first, item, k);
		memset(copy, 77, (size_t)k * 3);
		free(copy);
		free(item);
	}
}

static inline void finish(struct mixture *m, struct mixture_scores *s)
{
	assert_true(mixture_wait(m, s) >= 0);
	mixture_total(m, s, NULL, 0);
}

#endif
