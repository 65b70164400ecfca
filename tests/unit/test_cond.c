/* Conditioning as rows of named tensors: joined, picked, filled up where prompts differ in length. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "models/cond.h"

#define E 3
#define P 2

/* `rows` rows of L entries, whose values are from, from + 1, ... */
static struct cond some(int64_t rows, int64_t L, double from)
{
	struct cond c = { 0 };
	at_t text = at_add(at_arange(rows * L * E, AT_F32, AT_CPU), from);
	at_t pooled = at_add(at_arange(rows * P, AT_F32, AT_CPU), -from);

	cond_add(&c, COND_TEXT, at_view(text, DIMS(rows, L, E)), NULL);
	cond_add(&c, COND_POOLED, at_view(pooled, DIMS(rows, P)), NULL);
	return c;
}

static at_t text_of(const struct cond *c)
{
	return cond_get(c, COND_TEXT, NULL);
}

static at_t row(at_t x, int64_t i)
{
	return at_narrow(x, 0, i, 1);
}

static void parts(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond c = some(2, 5, 1), none = { 0 };
	at_t length_B = text_of(&c);

	(void)state;
	assert_int_equal(cond_batch(&c), 2);
	assert_int_equal(cond_tokens(&c), 5);
	assert_true(at_shape_is(cond_get(&c, COND_POOLED, NULL), DIMS(2, P)));
	assert_non_null(cond_get(&c, COND_TEXT, &length_B));
	assert_null(length_B);
	assert_null(cond_get(&c, "image", &length_B));
	assert_int_equal(cond_batch(&none) + cond_tokens(&none), 0);
	at_end(s);
}

static void equal_lengths(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond list[2] = { some(2, 4, 1), some(1, 4, 100) }, c = cond_cat(list, 2);
	at_t length_B;

	(void)state;
	assert_true(at_shape_is(cond_get(&c, COND_TEXT, &length_B), DIMS(3, 4, E)));
	assert_null(length_B);
	assert_true(at_equal(row(text_of(&c), 2), text_of(&list[1])));
	assert_true(at_equal(row(cond_get(&c, COND_POOLED, NULL), 2), cond_get(&list[1], COND_POOLED, NULL)));
	at_end(s);
}

/* The entries beyond a row's own are zeros, and the lengths say so, also when ragged ones are joined again.
 */
static void ragged(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond list[2] = { some(2, 3, 1), some(1, 5, 100) }, two = cond_cat(list, 2);
	struct cond again[2] = { some(1, 7, 50), two }, c = cond_cat(again, 2);
	const int64_t want[4] = { 7, 3, 3, 5 };
	at_t length_B, text_BLE = cond_get(&c, COND_TEXT, &length_B);

	(void)state;
	assert_true(at_shape_is(text_BLE, DIMS(4, 7, E)));
	assert_non_null(length_B);
	for (int64_t i = 0; i < 4; i++) {
		at_t rest = at_narrow(row(text_BLE, i), 1, want[i], 7 - want[i]);

		assert_int_equal(at_i64(length_B)[i], want[i]);
		assert_true(want[i] == 7 || at_item(at_sum(at_abs(rest))) == 0);
	}
	assert_true(at_equal(at_narrow(row(text_BLE, 3), 1, 0, 5), text_of(&list[1])));
	assert_true(at_equal(at_narrow(row(text_BLE, 1), 1, 0, 3), row(text_of(&list[0]), 0)));
	at_end(s);
}

static void picked(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond list[2] = { some(2, 3, 1), some(1, 5, 100) }, c = cond_cat(list, 2);
	struct cond some_rows = cond_rows(&c, at_from((int64_t[]) { 2, 0, 2 }, DIMS(3), AT_I64));
	at_t length_B;

	(void)state;
	assert_true(at_equal(row(cond_get(&some_rows, COND_TEXT, &length_B), 2), row(text_of(&c), 2)));
	assert_true(at_i64(length_B)[0] == 5 && at_i64(length_B)[1] == 3 && at_i64(length_B)[2] == 5);
	at_end(s);
}

/* Guidance: the negative prompt's row as often as there are rows, before them. */
static void negative(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond one = some(1, 2, 9), c = some(3, 2, 1), shorter = some(1, 1, 9);
	struct cond both = cond_before(&one, &c), uneven = cond_before(&shorter, &c);
	at_t length_B;

	(void)state;
	assert_true(at_shape_is(cond_get(&both, COND_TEXT, &length_B), DIMS(6, 2, E)));
	assert_null(length_B);
	for (int64_t i = 0; i < 3; i++) {
		assert_true(at_equal(row(text_of(&both), i), text_of(&one)));
		assert_true(at_equal(row(text_of(&both), 3 + i), row(text_of(&c), i)));
	}
	cond_get(&uneven, COND_TEXT, &length_B);
	assert_true(at_i64(length_B)[2] == 1 && at_i64(length_B)[3] == 2);
	at_end(s);
}

/* What a CUDA graph needs: a cond taken apart and put together again. */
static void taken_apart(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond list[2] = { some(2, 3, 1), some(1, 5, 100) }, c = cond_cat(list, 2);
	struct cond_shape shape = cond_shape(&c);
	at_t tensors[COND_TENSORS];
	struct cond other = some(3, 5, 1);

	(void)state;
	assert_int_equal(cond_tensors(&c, tensors), 3);
	struct cond back = cond_from(&shape, tensors);
	assert_true(back.n == 2 && back.part[0].rows == c.part[0].rows &&
		    back.part[0].length_B == c.part[0].length_B && !back.part[1].length_B);
	assert_true(cond_has_shape(&c, &shape));
	assert_false(cond_has_shape(&other, &shape)); /* it has no lengths */
	assert_false(cond_has_shape(&list[1], &shape));
	at_end(s);
}

static void owned(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD), *inner = at_begin(AT_NO_GRAD);
	struct cond list[2] = { some(2, 3, 1), some(1, 5, 100) }, c = cond_cat(list, 2), kept = cond_keep(&c);
	struct cond zeros = cond_zeros(&c, 4, AT_CPU);

	(void)state;
	cond_escape(inner, &c);
	cond_escape(inner, &zeros);
	at_end(inner);
	assert_true(at_equal(text_of(&c), text_of(&kept)));
	assert_true(at_shape_is(text_of(&zeros), DIMS(4, 5, E)) && at_item(at_sum(text_of(&zeros))) == 0);
	cond_free(&kept);
	assert_int_equal(kept.n, 0);
	cond_free(&kept);
	at_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts),  cmocka_unit_test(equal_lengths), cmocka_unit_test(ragged),
		cmocka_unit_test(picked), cmocka_unit_test(negative),      cmocka_unit_test(taken_apart),
		cmocka_unit_test(owned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
