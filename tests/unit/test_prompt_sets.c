/* Prompts of several files as one: which is where, what is each one's share, and who is drawn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "base/rng.h"
#include "data/prompts.h"

/* n prompts without files; prompt i has tag i % tags, the first of each tag in order. */
static struct prompts make(int64_t n, int tags)
{
	struct prompts p = { .n = n, .v = mem_zero((size_t)n, sizeof *p.v) };

	for (int64_t i = 0; i < n; i++) {
		p.v[i].text = mem_printf("prompt %d", (int)i);
		p.v[i].meta = mem_str("{}");
		p.v[i].tag = mem_printf("tag %d", (int)(i % tags));
	}
	return p;
}

/* Sets of 5, 7, 9, ... prompts. */
static struct prompts make_sets(const double *weight, int n)
{
	struct prompts p = { 0 };

	for (int k = 0; k < n; k++) {
		struct prompts one = make(5 + 2 * k, 2);
		char *name = mem_printf("set%d", k);

		one.path = mem_printf("file%d.txt", k);
		prompts_add_set(&p, name, weight[k], k == 1, &one);
		assert_true(!one.v && !one.path);
		free(name);
	}
	return p;
}

static void sets_one_behind_the_other(void **state)
{
	static const double weight[3] = { 1, 1, 1 };
	struct prompts p = make_sets(weight, 3), none = { 0 };
	int64_t at = 0;

	(void)state;
	prompts_add_set(&p, "empty", 1, false, &none);
	assert_true(p.sets == 4 && p.n == 5 + 7 + 9 && p.set[3].n == 0);
	assert_string_equal(p.path, "file0.txt, file1.txt, file2.txt");
	for (int k = 0; k < 3; k++)
		for (int i = 0; i < 5 + 2 * k; i++, at++) {
			char *text = mem_printf("prompt %d", i),
			     *where = mem_printf("file%d.txt: prompt %d ('%s')", k, i + 1, text),
			     *said = prompts_where(&p, at);

			assert_string_equal(p.v[at].text, text);
			assert_string_equal(said, where);
			assert_int_equal(prompts_set_of(&p, at), k);
			free(text);
			free(where);
			free(said);
		}
	prompts_free(&p);
}

/* Over any number of groups, in epochs of any size, each set has its share but for less than a group (for up
 * to four sets of random weights); a set's prompts come as often as another's of that set. */
static void shares_of_sets(void **state)
{
	enum { GROUPS = 13, EPOCHS = 60 };

	(void)state;
	for (int trial = 0; trial < 200; trial++) {
		struct rng r = rng_make(7, RNG_USER, (uint64_t)trial, 0);
		double weight[4], sum = 0;
		int sets = 2 + trial % 3;
		int64_t dealt[PROMPT_SETS] = { 0 }, out[GROUPS], again[GROUPS], count[32] = { 0 }, total = 0;

		for (int k = 0; k < sets; k++)
			sum += weight[k] = trial % 5 == 4 && k == 1 ? 0 : 0.1 + 3 * rng_uniform(&r);
		struct prompts p = make_sets(weight, sets);
		for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
			int64_t groups = 1 + (epoch * 5) % GROUPS;

			prompts_draw_sets(&p, 3, epoch, groups, false, dealt, out);
			prompts_draw_sets(&p, 3, epoch, groups, true, dealt, again);
			assert_memory_equal(out, again, (size_t)groups * sizeof *out);
			for (int64_t g = 0; g < groups; g++) {
				count[out[g]]++;
				dealt[prompts_set_of(&p, out[g])]++;
				total++;
				for (int k = 0; k < sets; k++) {
					double off = (double)dealt[k] - (double)total * weight[k] / sum;
					if (!(off > -1 && off < 1))
						fail_msg("trial %d: set %d is off by %g", trial, k, off);
				}
			}
		}
		for (int k = 0; k < sets; k++)
			assert_true(weight[k] > 0 || !dealt[k]);
		prompts_free(&p);
	}
}

static void sets_have_permutations_of_their_own(void **state)
{
	static const double weight[2] = { 2, 1 };
	struct prompts p = make_sets(weight, 2), alone = make(5, 2);
	int64_t dealt[PROMPT_SETS] = { 0 }, out[15], of_alone[10], first[10], other[10];
	int n = 0, m = 0;

	(void)state;
	prompts_draw_sets(&p, 3, 4, 15, false, dealt, out);
	prompts_draw(&alone, 3, 4, 10, false, of_alone);
	for (int i = 0; i < 15; i++) {
		int set = prompts_set_of(&p, out[i]);

		assert_int_equal(set, i % 3 == 1); /* they take turns */
		if (!set)
			first[n++] = out[i];
		else
			other[m++] = out[i] - 5;
	}
	/* the first set's is that of the file alone; another has its own, by_tag: tags in turn */
	assert_memory_equal(first, of_alone, sizeof first);
	for (int i = 0; i < m; i++) {
		assert_int_equal(other[i] % 2, i % 2);
		for (int j = 0; j < i; j++)
			assert_true(other[i] != other[j]);
	}
	prompts_free(&p);
	prompts_free(&alone);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_one_behind_the_other),
		cmocka_unit_test(shares_of_sets),
		cmocka_unit_test(sets_have_permutations_of_their_own),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
