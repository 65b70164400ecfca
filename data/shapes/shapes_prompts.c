/*
 * Every prompt of the shapes world.  Prompts that show the same scene in other words ("a circle and a
 * square", "a square and a circle"; "a cross left of a circle", "a circle right of a cross") share a family,
 * and a family is wholly in one of three files: training, validation (settings are chosen on it) or test
 * (reported).  Which one follows from a hash of the family's name alone.
 */
#include "data/shapes/shapes.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

enum tag { SINGLE_OBJECT, TWO_OBJECT, COUNTING, COLOR, POSITION, COLOR_ATTR, TAGS };

/* The shares of a tag's families, in as many parts as the default world has families: so that the test file
 * has 24 prompts or more of every tag but single_object, which has a prompt a shape. */
static const struct {
	const char *name;
	int test, validation, of;
} tags[TAGS] = {
	[SINGLE_OBJECT] = { "single_object", 3, 2, 8 }, [TWO_OBJECT] = { "two_object", 12, 4, 28 },
	[COUNTING] = { "counting", 24, 12, 112 },       [COLOR] = { "colors", 24, 8, 48 },
	[POSITION] = { "position", 24, 12, 112 },       [COLOR_ATTR] = { "color_attr", 24, 12, 840 },
};

static const char *const numbers[] = { "zero", "one", "two",   "three", "four",
				       "five", "six", "seven", "eight", "nine" };

static const char *const words[] = { "<pad>",  "a",        "photo",   "of",        "and",     "left",
				     "right",  "above",    "below",   "two",       "three",   "four",
				     "five",   "six",      "seven",   "eight",     "nine",    "circle",
				     "square", "triangle", "cross",   "wedge",     "ring",    "bar",
				     "pillar", "circles",  "squares", "triangles", "crosses", "wedges",
				     "rings",  "bars",     "pillars", "red",       "green",   "blue",
				     "yellow", "purple",   "white",   NULL };

const char *const *shapes_words(void)
{
	return words;
}

struct line {
	char *json, *family;
	uint64_t order; /* hash of the family */
};
struct list {
	struct line *v;
	int n, cap;
};

/* "a circle" or "a red circle" */
static char *noun(int shape, int color)
{
	return color < 0 ? mem_printf("a %s", shape_names[shape])
			 : mem_printf("a %s %s", color_names[color], shape_names[shape]);
}

static char *clause(int shape, int count, int color)
{
	return color < 0 ? mem_printf("{\"class\": \"%s\", \"count\": %d}", shape_names[shape], count)
			 : mem_printf("{\"class\": \"%s\", \"count\": %d, \"color\": \"%s\"}",
				      shape_names[shape], count, color_names[color]);
}

/* Takes the strings. */
static void add(struct list *list, enum tag tag, char *include, char *exclude, char *text, char *family)
{
	if (list->n == list->cap)
		list->v =
		    mem_grow(list->v, (size_t)(list->cap = list->cap ? 2 * list->cap : 64), sizeof *list->v);
	struct line *l = &list->v[list->n++];

	l->json = mem_printf("{\"tag\": \"%s\", \"include\": [%s]%s%s%s, \"prompt\": \"a photo of %s\"}",
			     tags[tag].name, include, exclude ? ", \"exclude\": [" : "",
			     exclude ? exclude : "", exclude ? "]" : "", text);
	l->family = family;
	l->order = file_hash(family, strlen(family), tag);
	free(include);
	free(exclude);
	free(text);
}

static void add_single(struct list *list, enum tag tag, int shape, int color)
{
	add(list, tag, clause(shape, 1, color), NULL, noun(shape, color), noun(shape, color));
}

static void add_pair(struct list *list, enum tag tag, int a, int color_a, int b, int color_b)
{
	char *one = clause(a, 1, color_a), *two = clause(b, 1, color_b);
	char *first = noun(a, color_a), *second = noun(b, color_b);
	char *include = mem_printf("%s, %s", one, two), *text = mem_printf("%s and %s", first, second);
	char *family = a < b ? mem_str(text) : mem_printf("%s and %s", second, first);

	add(list, tag, include, NULL, text, family);
	free(one);
	free(two);
	free(first);
	free(second);
}

/* "A left of B": B comes first in the metadata, A refers to it. */
static void add_position(struct list *list, int a, int relation, int b)
{
	const char *said = relation_names[relation], *turned = relation_names[relation ^ 1];
	char *include = mem_printf("{\"class\": \"%s\", \"count\": 1}, "
				   "{\"class\": \"%s\", \"count\": 1, \"position\": [\"%s\", 0]}",
				   shape_names[b], shape_names[a], said);
	char *text = mem_printf("a %s %s a %s", shape_names[a], said, shape_names[b]);
	char *family =
	    a < b ? mem_str(text) : mem_printf("a %s %s a %s", shape_names[b], turned, shape_names[a]);

	add(list, POSITION, include, NULL, text, family);
}

static void add_counting(struct list *list, int count, int color, int shape)
{
	char *text = mem_printf("%s %s%s%s", numbers[count], color < 0 ? "" : color_names[color],
				color < 0 ? "" : " ", shape_plurals[shape]);

	add(list, COUNTING, clause(shape, count, color), clause(shape, count + 1, -1), text, mem_str(text));
}

static void add_two_shapes(struct list *list, int a, int b)
{
	add_pair(&list[TWO_OBJECT], TWO_OBJECT, a, -1, b, -1);
	for (int r = 0; r < RELATIONS; r++)
		add_position(&list[POSITION], a, r, b);
	for (int c = 0; c < COLORS; c++)
		for (int d = 0; d < COLORS; d++)
			if (c != d)
				add_pair(&list[COLOR_ATTR], COLOR_ATTR, a, c, b, d);
}

static void add_all(struct list *list, int count_max)
{
	for (int s = 0; s < SHAPES; s++) {
		add_single(&list[SINGLE_OBJECT], SINGLE_OBJECT, s, -1);
		for (int c = 0; c < COLORS; c++)
			add_single(&list[COLOR], COLOR, s, c);
		for (int n = 2; n <= count_max; n++)
			for (int c = -1; c < COLORS; c++)
				add_counting(&list[COUNTING], n, c, s);
		for (int b = 0; b < SHAPES; b++)
			if (b != s)
				add_two_shapes(list, s, b);
	}
}

/* By hash, then by name; lines of a family stay in the order of writing. */
static int by_family(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	int c = strcmp(x->family, y->family);
	return c ? c : strcmp(x->json, y->json);
}

/* Sorts the families by hash and counts them. */
static int sort_families(struct list *list)
{
	int families = 0;

	qsort(list->v, (size_t)list->n, sizeof *list->v, by_family);
	for (int k = 0; k < list->n; k++)
		families += !k || strcmp(list->v[k].family, list->v[k - 1].family);
	return families;
}

/* The line behind the next `families` families from line `i` on. */
static int behind(const struct list *list, int i, int families)
{
	for (int seen = 0; i < list->n; i++) {
		seen += !seen || strcmp(list->v[i].family, list->v[i - 1].family);
		if (seen > families)
			break;
	}
	return i;
}

/* Lines first .. end of every tag, each tag's again and again up to as many as the largest has. */
static char *balanced(const struct list *list, const int *first, const int *end)
{
	struct text out = { 0 };
	int most = 0;

	for (int t = 0; t < TAGS; t++)
		most = end[t] - first[t] > most ? end[t] - first[t] : most;
	for (int t = 0; t < TAGS; t++)
		for (int i = 0; i < most && end[t] > first[t]; i++)
			text_printf(&out, "%s\n", list[t].v[first[t] + i % (end[t] - first[t])].json);
	return out.s ? out.s : mem_str("");
}

static int write_set(const char *dir, const char *name, const char *text, struct err *e)
{
	char *path = file_join(dir, name);
	int ret = file_write(path, text, strlen(text), e);

	free(path);
	return ret;
}

int shapes_write_prompts(const struct shapes_conf *c, const char *dir, struct err *e)
{
	static const int none[TAGS] = { 0 };
	struct list list[TAGS] = { 0 };
	struct text train = { 0 };
	int test[TAGS], held[TAGS]; /* ends of the test lines and of the validation lines behind them */

	if (shapes_check(c, e))
		return -1;
	add_all(list, (int)c->count_max);
	for (int t = 0; t < TAGS; t++) {
		int families = sort_families(&list[t]), of = tags[t].of;
		test[t] = behind(&list[t], 0, (families * tags[t].test + of / 2) / of);
		held[t] = behind(&list[t], test[t], (families * tags[t].validation + of / 2) / of);
		for (int i = held[t]; i < list[t].n; i++)
			text_printf(&train, "%s\n", list[t].v[i].json);
	}
	char *for_test = balanced(list, none, test), *for_validation = balanced(list, test, held);
	int ret = file_mkdirs(dir, e) || write_set(dir, "train.jsonl", train.s, e) ||
			  write_set(dir, "validation.jsonl", for_validation, e) ||
			  write_set(dir, "test.jsonl", for_test, e)
		      ? -1
		      : 0;
	for (int t = 0; t < TAGS; t++) {
		for (int i = 0; i < list[t].n; i++) {
			free(list[t].v[i].json);
			free(list[t].v[i].family);
		}
		free(list[t].v);
	}
	text_free(&train);
	free(for_test);
	free(for_validation);
	return ret;
}
