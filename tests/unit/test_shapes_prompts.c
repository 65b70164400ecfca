/* The prompt files of the shapes world: numbers, disjointness by scene, words, metadata. */
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

enum { TRAIN, VALIDATION, TEST, SETS };

struct fixture {
	struct prompts set[SETS];
};

static int setup(void **state)
{
	static const char *const names[SETS] = { "train", "validation", "test" };
	char dir[] = "/tmp/test_shapes_XXXXXX", path[64];
	struct fixture *f = mem_zero(1, sizeof *f);
	struct err e;

	if (!mkdtemp(dir) || shapes_write_prompts(&world, dir, &e))
		return -1;
	for (int k = 0; k < SETS; k++) {
		snprintf(path, sizeof path, "%s/%s.jsonl", dir, names[k]);
		if (prompts_read(&f->set[k], path, &e)) {
			print_error("%s\n", e.msg);
			return -1;
		}
		unlink(path);
	}
	rmdir(dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int k = 0; k < SETS; k++)
		prompts_free(&f->set[k]);
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

/* Distinct prompts with a tag. */
static int distinct(const struct prompts *p, const char *tag)
{
	int n = 0;

	for (int64_t i = 0; i < p->n; i++) {
		int64_t j = 0;
		while (strcmp(p->v[i].text, p->v[j].text))
			j++;
		n += i == j && !strcmp(p->v[i].tag, tag);
	}
	return n;
}

static void prompt_files(void **state)
{
	static const int wanted[SETS][TAGS] = { { 3, 24, 76, 16, 152, 1608 },
						{ 2, 8, 12, 8, 24, 24 },
						{ 3, 24, 24, 24, 48, 48 } };
	static const int lines[SETS] = { 0, 24, 48 };
	struct fixture *f = *state;

	for (int k = 0; k < SETS; k++) {
		for (int t = 0; t < TAGS; t++) {
			assert_int_equal(distinct(&f->set[k], tag_names[t]), wanted[k][t]);
			assert_int_equal(count_tag(&f->set[k], tag_names[t]),
					 k == TRAIN ? wanted[k][t] : lines[k]);
		}
	}
}

/* No scene of a tag is asked for, in whatever words, in two of the three files; and with all three, none is
 * missing. */
static void sets_share_no_scene(void **state)
{
	struct fixture *f = *state;
	const int shapes = SHAPES, pairs = SHAPES * (SHAPES - 1) / 2;
	const int families = shapes + pairs + shapes * (COLORS + 1) * 2 + shapes * COLORS + 4 * pairs +
			     pairs * COLORS * (COLORS - 1);
	struct known {
		char key[192];
		const char *tag;
		int set;
	} *known = mem_zero((size_t)families, sizeof *known);
	int n = 0;

	for (int k = 0; k < SETS; k++) {
		for (int64_t i = 0; i < f->set[k].n; i++) {
			const struct prompt *p = &f->set[k].v[i];
			char key[192];
			int at = 0;
			scene_key(key, sizeof key, p->text);
			while (at < n && (strcmp(known[at].key, key) || strcmp(known[at].tag, p->tag)))
				at++;
			if (at == n) {
				assert_true(n++ < families);
				memcpy(known[at].key, key, sizeof key);
				known[at].tag = p->tag;
				known[at].set = k;
			}
			if (known[at].set != k)
				fail_msg("'%s' is in set %d and in set %d", p->text, k, known[at].set);
		}
	}
	assert_int_equal(n, families);
	free(known);
}

static void only_known_words(void **state)
{
	struct fixture *f = *state;
	const char *const *words = shapes_words();

	assert_string_equal(words[0], "<pad>");
	for (int64_t i = 0; i < f->set[TRAIN].n; i++) {
		char *copy = mem_str(f->set[TRAIN].v[i].text), *rest = copy;
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
		for (int i = 0; i < SETS; i++) {
			for (int64_t j = 0; j < f->set[i].n; j++) {
				const struct prompt *p = &f->set[i].v[j];
				if (strcmp(p->text, wanted[k][0]))
					continue;
				assert_string_equal(p->meta, wanted[k][1]);
				seen = true;
			}
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

/* Every position prompt has an order, no other has; a relation and its mirror image are never both in order.
 */
static void order_of_relations(void **state)
{
	const struct fixture *f = *state;
	int in_order = 0;

	for (int64_t i = 0; i < f->set[TRAIN].n; i++) {
		const struct prompt *v = &f->set[TRAIN].v[i];
		int order = shapes_order(v->meta);
		assert_int_equal(order != 0, !strcmp(v->tag, "position"));
		in_order += order > 0;
	}
	assert_true(in_order >= 32); /* of the 64 that a quarter of all pairs can have */
	const char *left = "{\"include\": [{\"class\": \"ring\", \"count\": 1}, {\"class\": \"circle\", "
			   "\"count\": 1, \"position\": [\"left of\", 0]}]}";
	const char *right = "{\"include\": [{\"class\": \"circle\", \"count\": 1}, {\"class\": \"ring\", "
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
		cmocka_unit_test(sets_share_no_scene),
		cmocka_unit_test(only_known_words),
		cmocka_unit_test(metadata_form),
		cmocka_unit_test(order_of_relations),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
