/* trainer/sampling.h: what is sampled and handed over when, with a sampler that is made up (--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "aten/transfer.h"
#include "base/text.h"
#include "trainer/sampling.h"

#define N 7
static const int64_t ids[N] = { 5, 3, 9, 1, 4, 8, 2 };

static struct text told;     /* what happened, in order */
static bool ready;           /* are pixels there at once? */
static int64_t fails_at;     /* the image whose conditioning cannot be had */
static int64_t full_at = -1; /* the image that nobody takes */
static int decoded;

at_t __wrap_sampler_noise(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch,
			  const int64_t *id, int n, struct at_dims chw);
at_t __wrap_sampler_run(const struct sampler *s, const struct pass *pass, at_t noise, const struct cond *c,
			const struct sampler_steps *k);
at_t __wrap_pipeline_pixels(const struct pipeline *p, at_t x0);
bool __wrap_at_fetch_ready(const struct at_fetch *f);

/* An image's noise is its id. */
at_t __wrap_sampler_noise(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch,
			  const int64_t *id, int n, struct at_dims chw)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = at_empty(DIMS(n, chw.d[0], chw.d[1], chw.d[2]), AT_F32, AT_CPU);

	(void)p;
	assert_true(seed == 11 && purpose == RNG_EVAL && epoch == 12);
	for (int64_t i = 0; i < at_numel(x); i++)
		at_f32(x)[i] = (float)id[i / (at_numel(x) / n)];
	return at_return(s, x);
}

at_t __wrap_sampler_run(const struct sampler *s, const struct pass *pass, at_t noise, const struct cond *c,
			const struct sampler_steps *k)
{
	(void)s, (void)pass, (void)c;
	assert_true(k->seed == 11 && k->purpose == RNG_EVAL_SOLVER && k->epoch == 12 && !k->stop);
	for (int64_t i = 0; i < at_size(noise, 0); i++) /* noise on the way is that of the same images */
		assert_true(at_f32(noise)[i * at_numel(noise) / at_size(noise, 0)] == (float)k->id[i]);
	text_printf(&told, "sample %d; ", (int)at_size(noise, 0));
	return at_mul(noise, 2);
}

at_t __wrap_pipeline_pixels(const struct pipeline *p, at_t x0)
{
	(void)p;
	decoded++;
	return at_cast(x0, AT_U8);
}

bool __wrap_at_fetch_ready(const struct at_fetch *f)
{
	(void)f;
	return ready;
}

static int cond(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	(void)ctx;
	*out = (struct cond) { 0 };
	for (int i = 0; i < n; i++)
		if (id[i] == fails_at)
			return err_set(e, "no conditioning");
	return 0;
}

static int take(void *ctx, int64_t at, at_t rgb, struct err *e)
{
	const uint8_t *v = at_data(rgb);
	int n = (int)at_size(rgb, 0);

	assert_ptr_equal(ctx, ids);
	text_printf(&told, "take %d from %d; ", n, (int)at);
	for (int i = 0; i < n; i++)
		assert_int_equal(v[2 * i], 2 * ids[at + i]);
	return at == full_at ? err_set(e, "no room") : 0;
}

static int run(bool pixels, at_t x0)
{
	struct sampling s = { .chw = DIMS(1, 1, 2),
			      .batch = 3,
			      .seed = 11,
			      .epoch = 12,
			      .purpose = RNG_EVAL,
			      .steps = RNG_EVAL_SOLVER,
			      .x0_NCHW = x0,
			      .cond = cond,
			      .take = pixels ? take : NULL,
			      .take_ctx = (void *)(uintptr_t)ids };
	struct err e = { "" };

	text_free(&told);
	decoded = 0;
	int ret = sampling_run(&s, ids, N, &e);
	assert_string_equal(e.msg, !ret ? "" : full_at >= 0 ? "no room" : "no conditioning");
	return ret;
}

/* A batch's pixels are taken when the next is on its way, or at once where they are there. */
static void order(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x0 = at_zeros(DIMS(N, 1, 1, 2), AT_F32, AT_CPU);

	(void)state;
	fails_at = -1;
	ready = false;
	assert_int_equal(run(true, x0), 0);
	assert_string_equal(told.s,
			    "sample 3; sample 3; take 3 from 0; sample 1; take 3 from 3; take 1 from 6; ");
	for (int i = 0; i < N; i++)
		assert_true(at_f32(x0)[2 * i] == (float)(2 * ids[i]));
	ready = true;
	assert_int_equal(run(true, NULL), 0);
	assert_string_equal(told.s,
			    "sample 3; take 3 from 0; sample 3; take 3 from 3; sample 1; take 1 from 6; ");
	at_end(s);
}

static void latents_alone(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x0 = at_zeros(DIMS(N, 1, 1, 2), AT_F32, AT_CPU);

	(void)state;
	assert_int_equal(run(false, x0), 0);
	assert_string_equal(told.s, "sample 3; sample 3; sample 1; ");
	assert_int_equal(decoded, 0);
	assert_true(at_f32(x0)[2 * N - 1] == 2 * 2);
	at_end(s);
}

/* What was sampled before is handed over, once, and nothing is left behind. */
static void failure(void **state)
{
	int64_t live = at_live();

	(void)state;
	for (int i = 0; i < 2; i++) {
		ready = i;
		fails_at = 4; /* of the second batch */
		assert_int_equal(run(true, NULL), -1);
		assert_string_equal(told.s, "sample 3; take 3 from 0; ");
		fails_at = 5;
		assert_int_equal(run(true, NULL), -1);
		assert_null(told.s);
	}
	assert_int_equal(at_live(), live);
}

/* Nobody takes what comes then: no more is sampled, and what is on its way is not lost. */
static void nobody_takes(void **state)
{
	int64_t live = at_live();

	(void)state;
	fails_at = -1;
	full_at = 0;
	for (int i = 0; i < 2; i++) {
		ready = i;
		assert_int_equal(run(true, NULL), -1);
		assert_string_equal(told.s, i ? "sample 3; take 3 from 0; "
					      : "sample 3; sample 3; take 3 from 0; take 3 from 3; ");
	}
	full_at = -1;
	assert_int_equal(at_live(), live);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),
		cmocka_unit_test(latents_alone),
		cmocka_unit_test(failure),
		cmocka_unit_test(nobody_takes),
	};
	int ret = cmocka_run_group_tests(tests, NULL, NULL);

	text_free(&told);
	return ret;
}
