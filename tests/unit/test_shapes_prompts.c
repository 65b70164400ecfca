/* The prompt files of the shapes world: numbers, disjointness, words, metadata. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/mem.h"
#include "data/prompts.h"
#include "data/shapes/shapes.h"

enum { TAGS = 6 };

static const struct shapes_conf world = { 3, 8, 2.7, 3.15, 0.6, 0.02, 0.10, 3 };
static const char *const tag_names[TAGS] = { "single_object", "two_object", "counting",
					     "colors",        "position",   "color_attr" };

struct fixture {
	struct prompts train, test;
};

static int setup(void **state)
{
	char dir[] = "/tmp/test_shapes_XXXXXX", train[64], test[64];
	struct fixture *f = mem_zero(1, sizeof *f);
	struct err e;

	if (!mkdtemp(dir))
		return -1;
	snprintf(train, sizeof train, "%s/train.jsonl", dir);
	snprintf(test, sizeof test, "%s/test.jsonl", dir);
	if (shapes_write_prompts(&world, train, test, &e) || prompts_read(&f->train, train, &e) ||
	    prompts_read(&f->test, test, &e)) {
		print_error("%s\n", e.msg);
		return -1;
	}
	unlink(train);
	unlink(test);
	rmdir(dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	prompts_free(&f->train);
	prompts_free(&f->test);
	free(f);
	return 0;
}

static int count_tag(const struct prompts *p, const char *tag)
{
	int n = 0;

	for (int64_t i = 0; i < p->n; i++)
		n += !strcmp(p->v[i].tag, tag);
	return n;
}

/* Words in alphabetical order, right of and below turned round: equal for prompts that show the same scenes.
 */
static void scene_key(char *key, size_t cap, const char *text)
{
	const char *said[] = { " left of ", " right of ", " above ", " below ", " and " };
	char a[64], b[64];

	snprintf(key, cap, "%s", text + strlen("a photo of "));
	for (int i = 0; i < 5; i++) {
		char *at = strstr(key, said[i]);
		if (!at)
			continue;
		snprintf(a, sizeof a, "%.*s", (int)(at - key), key);
		snprintf(b, sizeof b, "%s", at + strlen(said[i]));
		bool turn = i == 1 || i == 3 || (i == 4 && strcmp(a, b) > 0);
		snprintf(key, cap, "%s|%d|%s", turn ? b : a, i / 2, turn ? a : b);
		return;
	}
}

static void prompt_files(void **state)
{
	static const int train[TAGS] = { 4, 8, 44, 18, 36, 336 };
	struct fixture *f = *state;

	assert_true(f->train.n >= 400);
	assert_int_equal(f->test.n, TAGS * 24);
	for (int t = 0; t < TAGS; t++) {
		assert_int_equal(count_tag(&f->train, tag_names[t]), train[t]);
		assert_int_equal(count_tag(&f->test, tag_names[t]), 24);
	}
	for (int64_t i = 0; i < f->test.n; i++) {
		char a[192], b[192];
		scene_key(a, sizeof a, f->test.v[i].text);
		for (int64_t j = 0; j < f->train.n; j++) {
			scene_key(b, sizeof b, f->train.v[j].text);
			if (strcmp(f->test.v[i].tag, "single_object") && !strcmp(a, b))
				fail_msg("'%s' is trained as '%s'", f->test.v[i].text, f->train.v[j].text);
		}
	}
}

static int test_prompts_of(const struct fixture *f, const char *tag)
{
	int n = 0;

	for (int64_t i = 0; i < f->test.n; i++) {
		int64_t j = 0;
		while (strcmp(f->test.v[i].text, f->test.v[j].text))
			j++;
		n += i == j && !strcmp(f->test.v[i].tag, tag);
	}
	return n;
}

static void test_prompts_differ(void **state)
{
	static const int held[TAGS] = { 4, 4, 12, 6, 12, 24 };

	for (int t = 0; t < TAGS; t++)
		assert_int_equal(test_prompts_of(*state, tag_names[t]), held[t]);
}

static void only_known_words(void **state)
{
	struct fixture *f = *state;
	const char *const *words = shapes_words();

	assert_string_equal(words[0], "<pad>");
	for (int64_t i = 0; i < f->train.n; i++) {
		char *copy = mem_str(f->train.v[i].text), *rest = copy;
		int n = 0;
		for (char *word; (word = strsep(&rest, " ")); n++) {
			int k = 1;
			while (words[k] && strcmp(words[k], word))
				k++;
			assert_non_null(words[k]);
		}
		assert_true(n <= 10);
		free(copy);
	}
}

static void metadata_form(void **state)
{
	struct fixture *f = *state;
	static const char *const wanted[][2] = {
		{ "a photo of a cross left of a circle",
		  "{\"include\":[{\"class\":\"circle\",\"count\":1},{\"class\":\"cross\",\"count\":1,"
		  "\"position\":[\"left "
		  "of\",0]}],\"prompt\":\"a photo of a cross left of a circle\",\"tag\":\"position\"}" },
		{ "a photo of three red crosses",
		  "{\"exclude\":[{\"class\":\"cross\",\"count\":4}],\"include\":[{\"class\":\"cross\","
		  "\"color\":\"red\","
		  "\"count\":3}],\"prompt\":\"a photo of three red crosses\",\"tag\":\"counting\"}" },
		{ "a photo of a red circle and a blue square",
		  "{\"include\":[{\"class\":\"circle\",\"color\":\"red\",\"count\":1},{\"class\":\"square\","
		  "\"color\":"
		  "\"blue\",\"count\":1}],\"prompt\":\"a photo of a red circle and a blue "
		  "square\",\"tag\":\"color_attr\"}" },
	};

	for (size_t k = 0; k < sizeof wanted / sizeof *wanted; k++) {
		bool seen = false;
		for (int64_t i = 0; i < f->train.n + f->test.n; i++) {
			const struct prompt *p = i < f->train.n ? &f->train.v[i] : &f->test.v[i - f->train.n];
			if (strcmp(p->text, wanted[k][0]))
				continue;
			assert_string_equal(p->meta, wanted[k][1]);
			seen = true;
		}
		assert_true(seen);
	}
}

/* The defaults are the world that the tests, the prompts and the base model are made for. */
static void defaults(void **state)
{
	struct shapes_conf c = { 0 };
	struct conf_node *root = conf_empty();
	struct err e = { "" };

	(void)state;
	assert_int_equal(conf_fill(&c, shapes_fields, root, "shapes", NULL, &e), 0);
	conf_node_free(root);
	assert_int_equal(c.grid, world.grid);
	assert_int_equal(c.cell, world.cell);
	assert_int_equal(c.count_max, world.count_max);
	assert_true(c.half_min == world.half_min && c.half_max == world.half_max && c.margin == world.margin);
	assert_true(c.dark_min == world.dark_min && c.dark_max == world.dark_max);
	assert_int_equal(shapes_check(&c, &e), 0);
}

/* Every position prompt is in order or turned, and half of them are either; nothing else has an order. */
static void order_of_relations(void **state)
{
	const struct fixture *f = *state;
	int in_order = 0, turned = 0;

	for (int64_t i = 0; i < f->train.n; i++) {
		const struct prompt *v = &f->train.v[i];
		int order = shapes_order(v->meta);
		assert_int_equal(order != 0, !strcmp(v->tag, "position"));
		in_order += order > 0;
		turned += order < 0;
	}
	assert_int_equal(in_order, 18);
	assert_int_equal(turned, 18);
	const char *left = "{\"include\": [{\"class\": \"square\", \"count\": 1}, {\"class\": \"circle\", "
			   "\"count\": 1, \"position\": [\"left of\", 0]}]}";
	const char *right = "{\"include\": [{\"class\": \"circle\", \"count\": 1}, {\"class\": \"square\", "
			    "\"count\": 1, \"position\": [\"right of\", 0]}]}";
	assert_int_equal(shapes_order(left), 1);
	assert_int_equal(shapes_order(right), -1);
	assert_int_equal(shapes_order("not JSON"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(prompt_files),
		cmocka_unit_test(test_prompts_differ),
		cmocka_unit_test(only_known_words),
		cmocka_unit_test(metadata_form),
		cmocka_unit_test(order_of_relations),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
