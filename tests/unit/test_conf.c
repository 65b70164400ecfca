/* base/conf/conf.h: values, places, and the one line that each mistake gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/conf/conf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

struct inner {
	double rate, pace;
	char *kind;
};
struct sample {
	int64_t steps, free, size;
	bool fast;
	char *name, *file;
	struct conf_list items;
	struct inner opt;
};
static const char *const kinds[] = { "linear", "cosine", NULL };
static const struct field_word sizes[] = { { "auto", 0 }, { "all", 1000 }, { NULL, 0 } };
static const struct field_word paces[] = { { "none", -1 }, { NULL, 0 } };
static const struct field fields[] = {
	FIELD(struct sample, steps, .init = "10", .min = 1, .max = 100, .doc = "how many"),
	FIELD(struct sample, free, .init = "0", .doc = "any number"),
	FIELD(struct sample, size, .init = "auto", .min = 1, .max = 64, .words = sizes, .doc = "how large"),
	FIELD(struct sample, fast, .init = "false", .doc = "whether"),
	FIELD(struct sample, name, .init = "x", .doc = "what"),
	FIELD(struct sample, items, .init = "a, b", .min = 1, .max = 3, .doc = "which"),
	FIELD(struct sample, opt.rate, .was = "opt.speed", .init = "1e-3", .min = 0, .max = 1, .unit = "s",
	      .doc = "rate"),
	FIELD(struct sample, opt.pace, .init = "none", .min = 0, .max = 1, .words = paces, .doc = "pace"),
	FIELD(struct sample, file, .init = "linear", .choices = kinds, .or_path = true,
	      .doc = "kind or file"),
	FIELD(struct sample, opt.kind, .init = "linear", .choices = kinds, .doc = "kind"),
	FIELD_END
};

static char folder[] = "/tmp/test-conf-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
	struct err e;
	(void)state;
	return file_remove_tree(folder, &e);
}

static char *put(const char *name, const char *text)
{
	char *path = file_join(folder, name);
	struct err e;
	assert_int_equal(file_write(path, text, strlen(text), &e), 0);
	return path;
}

/* Reads text (and assignments) as section "" into s; the error, or "" */
static const char *fill(struct sample *s, const char *text, const char *set)
{
	static struct err e;
	char *path = put("t.yaml", text);
	struct conf_node *root = conf_read(path, &e);
	int ret = root ? 0 : -1;

	*s = (struct sample) { 0 };
	if (!ret && set)
		ret = conf_set(root, set, &e);
	if (!ret)
		ret = conf_fill(s, fields, root, "", NULL, &e);
	conf_node_free(root);
	free(path);
	return ret ? e.msg : "";
}

static void test_values(void **state)
{
	struct sample s;

	(void)state;
	assert_string_equal(
	    fill(&s,
		 "steps: 7\nfast: true\nname: \"007\"\nitems: [p, q, r]\nopt: {rate: 2.5e-1, kind: cosine}\n",
		 NULL),
	    "");
	assert_int_equal(s.steps, 7);
	assert_true(s.fast);
	assert_string_equal(s.name, "007");
	assert_int_equal(s.items.n, 3);
	assert_string_equal(s.items.v[2], "r");
	assert_true(s.opt.rate == 0.25);
	assert_string_equal(s.opt.kind, "cosine");
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "", "opt.rate=0.5"), ""); /* an empty file is all defaults */
	assert_int_equal(s.steps, 10);
	assert_int_equal(s.items.n, 2);
	assert_true(s.opt.rate == 0.5);
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "items: [p]\n", "items=[u, v]"), "");
	assert_int_equal(s.items.n, 2);
	assert_string_equal(s.items.v[1], "v");
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "items: \"p, q\"\n", NULL), ""); /* quoted: one entry */
	assert_int_equal(s.items.n, 1);
	assert_string_equal(s.items.v[0], "p, q");
	conf_release(&s, fields);
}

static void test_mistakes(void **state)
{
	static const struct {
		const char *text, *set, *part[3];
	} bad[] = {
		{ "steps: 7\nstesp: 3\n", NULL, { "t.yaml:2", "'stesp'", "did you mean 'steps'" } },
		{ "opt:\n  rate: 1\n  knid: x\n",
		  NULL,
		  { "t.yaml:3", "'opt.knid'", "did you mean 'opt.kind'" } },
		{ "qqqqqq: 1\n", NULL, { "t.yaml:1", "unknown key 'qqqqqq'", "" } },
		{ "steps: many\n", NULL, { "t.yaml:1", "steps = 'many'", "not an integer" } },
		{ "steps: 1.5\n", NULL, { "t.yaml:1", "steps", "not an integer" } },
		{ "steps: 101\n", NULL, { "t.yaml:1", "steps", "[1, 100]" } },
		{ "steps: 99999999999999999999\n", NULL, { "t.yaml:1", "steps", "[1, 100]" } },
		{ "opt: {rate: nan}\n", NULL, { "opt.rate", "not a number", "" } },
		{ "opt: {rate: -1}\n", NULL, { "opt.rate", "[0, 1]", "" } },
		{ "fast: yes\n", NULL, { "fast", "true or false", "" } },
		{ "opt: {kind: liner}\n", NULL, { "opt.kind", "linear, cosine", "did you mean 'linear'" } },
		{ "opt: 3\n", NULL, { "t.yaml:1", "'opt'", "section" } },
		{ "steps: {a: 1}\n", NULL, { "t.yaml:1", "steps", "section" } },
		{ "steps: [1, 2]\n", NULL, { "steps", "one value", "" } },
		{ "items: []\n", NULL, { "items", "0 entries", "1 to 3" } },
		{ "items: [a, b, c, d]\n", NULL, { "items", "4 entries", "" } },
		{ "steps: 1\nsteps: 2\n", NULL, { "t.yaml:2", "'steps'", "twice" } },
		{ "steps: [1\n", NULL, { "t.yaml:2", "not valid YAML", "" } },
		{ "- a\n- b\n", NULL, { "t.yaml:1", "mapping", "" } },
		{ "a: 1\n---\nb: 2\n", NULL, { "t.yaml", "more than one", "" } },
		{ "steps: &x 3\nname: *x\n", NULL, { "t.yaml:2", "aliases", "" } },
		{ "", "steps", { "--set steps", "KEY=VALUE", "" } },
		{ "", "stesp=3", { "--set stesp=3", "did you mean 'steps'", "" } },
		{ "steps: 3\n", "steps.x=3", { "--set", "'steps'", "not a section" } },
		{ "", "items=[a", { "--set items=[a: not valid YAML", "", "" } },
		{ "", "opt={rate: 0.1, rate: 0.2}", { "--set opt=", "'rate'", "twice" } },
		{ "opt.rate: 0.5\n", NULL, { "t.yaml:1", "'opt.rate'", "has a dot" } },
		{ "name: \"a\\0b\"\n", NULL, { "t.yaml:1", "NUL", "" } },
		{ "\"name\\0x\": b\n", NULL, { "t.yaml:1", "a key", "" } },
		{ "free: 99999999999999999999\n", NULL, { "t.yaml:1", "free", "too large" } },
		{ "rate: 1\n", NULL, { "t.yaml:1", "'rate'", "did you mean 'opt.rate'" } },
		{ "knd: linear\n", NULL, { "t.yaml:1", "'knd'", "did you mean 'opt.kind'" } },
		{ "", "opt..rate=3", { "--set", "empty part", "" } },
	};
	struct sample s;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		const char *msg = fill(&s, bad[i].text, bad[i].set);
		for (int k = 0; k < 3; k++)
			if (!strstr(msg, bad[i].part[k]))
				fail_msg("case %zu: '%s' lacks '%s'", i, msg, bad[i].part[k]);
		assert_null(strchr(msg, '\n'));
	}
}

static void test_extends(void **state)
{
	char *base = put("base.yaml", "steps: 3\nopt: {rate: 0.5, kind: cosine}\nitems: [a]\n");
	struct sample s;

	(void)state;
	assert_string_equal(fill(&s, "extends: base.yaml\nopt: {rate: 0.25}\nitems: [b]\n", NULL), "");
	assert_int_equal(s.steps, 3);
	assert_true(s.opt.rate == 0.25);
	assert_string_equal(s.opt.kind, "cosine");
	assert_int_equal(s.items.n, 1);
	assert_string_equal(s.items.v[0], "b");
	conf_release(&s, fields);
	assert_non_null(strstr(fill(&s, "extends: none.yaml\n", NULL), "none.yaml"));
	assert_non_null(strstr(fill(&s, "extends: t.yaml\n", NULL), "circle"));
	char *more = put("more.yaml", "steps: 7\nopt: {kind: linear}\n");
	assert_string_equal(fill(&s, "extends: [base.yaml, more.yaml]\nitems: [c]\n", NULL), "");
	assert_int_equal(s.steps, 7); /* the last file's, */
	assert_string_equal(s.opt.kind, "linear");
	assert_true(s.opt.rate == 0.5); /* and what it does not have from the one before */
	assert_string_equal(s.items.v[0], "c");
	conf_release(&s, fields);
	assert_non_null(strstr(fill(&s, "extends: [base.yaml, none.yaml]\n", NULL), "none.yaml"));
	assert_non_null(strstr(fill(&s, "extends: {a: b}\n", NULL), "or several in a list"));
	assert_non_null(strstr(fill(&s, "extends: []\n", NULL), "or several in a list"));
	assert_non_null(strstr(fill(&s, "extends: [[base.yaml]]\n", NULL), "or several in a list"));
	assert_non_null(strstr(fill(&s, "extends: [{a: b}]\n", NULL), "or several in a list"));
	free(more);
	free(put("base.yaml", "stesp: 3\n"));
	assert_non_null(strstr(fill(&s, "extends: base.yaml\n", NULL), "base.yaml:1"));
	free(base);
}

/* YAML 1.2's core schema: plain null, Null, NULL and ~ are nothing; in quotes they are words. */
static void test_null(void **state)
{
	static const char *const words[] = { "null", "Null", "NULL", "~" };
	char *base = put("base.yaml", "steps: 3\nname: base\nopt: {rate: 0.5, kind: cosine}\n");
	struct sample s;
	char text[200];

	(void)state;
	for (int i = 0; i < 4; i++) {
		snprintf(text, sizeof text, "extends: base.yaml\nname: %s\nopt: {rate: %s}\nsteps: 4\n",
			 words[i], words[i]);
		assert_string_equal(fill(&s, text, NULL), "");
		assert_string_equal(s.name, "x"); /* the default, not the base's */
		assert_true(s.opt.rate == 1e-3);
		assert_string_equal(s.opt.kind, "cosine");
		assert_int_equal(s.steps, 4);
		conf_release(&s, fields);
		snprintf(text, sizeof text, "name: \"%s\"\n", words[i]);
		assert_string_equal(fill(&s, text, NULL), "");
		assert_string_equal(s.name, words[i]);
		conf_release(&s, fields);
	}
	assert_string_equal(fill(&s, "extends: base.yaml\nopt: null\n", "steps=null"), "");
	assert_string_equal(s.opt.kind, "linear");
	assert_int_equal(s.steps, 10);
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "steps: 3\n", "opt={kind: null, rate: 0.25}"), "");
	assert_string_equal(s.opt.kind, "linear"); /* within a map that was not there */
	assert_true(s.opt.rate == 0.25);
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "name: null\n", "name=y"), "");
	assert_string_equal(s.name, "y");
	conf_release(&s, fields);
	assert_non_null(strstr(fill(&s, "items: [a, ~]\n", NULL), "null in a list"));
	free(base);
}

static void test_required(void **state)
{
	static const struct field need[] = { FIELD(struct inner, kind, .init = NULL, .doc = "the kind"),
					     FIELD_END };
	struct conf_node *root = conf_empty();
	struct inner in = { 0 };
	struct err e;

	(void)state;
	assert_int_equal(conf_fill(&in, need, root, "part", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "'part.kind' is required"));
	conf_node_free(root);
}

/* What is stored and emitted reads back to the same values, whatever the texts look like. */
static void test_round_trip(void **state)
{
	static const char *const names[] = { "true", "12",    "1e5",         "",  "a b",         "x: y",
					     "#no",  "\"q\"", "back\\slash", "~", "caf\xc3\xa9", "null",
					     "-" };
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char *items[] = { (char *)(uintptr_t)names[i], (char *)(uintptr_t) "z" };
		struct sample s = { .steps = 5,
				    .name = (char *)(uintptr_t)names[i],
				    .items = { items, 2 },
				    .file = (char *)(uintptr_t) "a/b",
				    .opt = { .rate = 0.1 + (double)i / 30,
					     .kind = (char *)(uintptr_t) "cosine" } },
			      back = { 0 };
		struct conf_node *tree = conf_empty();
		struct text t = { 0 };
		conf_store(tree, &s, fields, "deep.down");
		conf_emit(&t, tree);
		char *path = put("r.yaml", t.s);
		struct conf_node *again = conf_read(path, &e);
		assert_non_null(again);
		if (*names[i]) { /* the list's own entries cannot be empty */
			assert_int_equal(conf_fill(&back, fields, again, "deep.down", NULL, &e), 0);
			assert_string_equal(back.name, names[i]);
			assert_int_equal(back.items.n, 2);
			assert_string_equal(back.items.v[0], names[i]);
			assert_memory_equal(&back.opt.rate, &s.opt.rate, sizeof back.opt.rate);
			conf_release(&back, fields);
		}
		conf_node_free(tree);
		conf_node_free(again);
		text_free(&t);
		free(path);
	}
}

/* Words stand for numbers out of the bounds, both ways. */
static void test_words(void **state)
{
	static const int64_t value[] = { 0, 1000, 7 };
	static const char *const text[] = { "size: auto", "size: all", "size: 7" };
	struct sample s;

	(void)state;
	assert_string_equal(fill(&s, "steps: 1", NULL), "");
	assert_int_equal(s.size, 0);
	conf_release(&s, fields);
	for (int i = 0; i < 3; i++) {
		struct conf_node *tree = conf_empty();
		struct text t = { 0 };

		assert_string_equal(fill(&s, text[i], NULL), "");
		assert_int_equal(s.size, value[i]);
		conf_store(tree, &s, fields, "");
		conf_emit(&t, tree);
		assert_non_null(strstr(t.s, text[i]));
		conf_release(&s, fields);
		conf_node_free(tree);
		text_free(&t);
	}
	assert_non_null(strstr(fill(&s, "size: 0", NULL), "size = '0': must be in [1, 64]"));
	assert_non_null(
	    strstr(fill(&s, "size: much", NULL), "size = 'much': not an integer, nor one of auto, all"));
	assert_non_null(strstr(fill(&s, "steps: auto", NULL), "steps = 'auto': not an integer"));
}

/* The same of real numbers. */
static void test_real_words(void **state)
{
	static const double value[] = { -1, 0, 0.25 };
	static const char *const text[] = { "pace: none", "pace: 0", "pace: 0.25" };
	struct sample s;

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct conf_node *tree = conf_empty();
		struct text t = { 0 };
		char *in = mem_printf("opt: {%s}", text[i]);

		assert_string_equal(fill(&s, in, NULL), "");
		assert_float_equal(s.opt.pace, value[i], 0);
		conf_store(tree, &s, fields, "");
		conf_emit(&t, tree);
		assert_non_null(strstr(t.s, text[i]));
		conf_release(&s, fields);
		conf_node_free(tree);
		text_free(&t);
		free(in);
	}
	assert_non_null(strstr(fill(&s, "opt: {pace: -1}", NULL), "opt.pace = '-1': must be in [0, 1]"));
	assert_non_null(
	    strstr(fill(&s, "opt: {pace: x}", NULL), "opt.pace = 'x': not a number, nor one of none"));
	assert_non_null(strstr(fill(&s, "opt: {rate: none}", NULL), "opt.rate = 'none': not a number"));
}

static void test_paths(void **state)
{
	struct sample s;

	(void)state;
	assert_string_equal(fill(&s, "file: ./cubic", NULL), "");
	assert_string_equal(s.file, "./cubic");
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "file: cosine", NULL), "");
	conf_release(&s, fields);
	assert_non_null(
	    strstr(fill(&s, "file: cosin", NULL),
		   "must be one of linear, cosine, or a path with a slash in it; did you mean 'cosine'?"));
	assert_non_null(strstr(fill(&s, "opt: {kind: ./cosine}", NULL), "must be one of linear, cosine;"));
}

/* Lines of the log with `part` in them. */
static int logged(const char *part)
{
	char *path = file_join(folder, "log.txt"), *text;
	struct err e;
	size_t n;
	int count = 0;

	assert_int_equal(file_read(&text, &n, path, &e), 0);
	for (const char *at = text; (at = strstr(at, part)); at++)
		count++;
	free(text);
	free(path);
	return count;
}

/* A key under its earlier name sets the present one, and each place is warned of once. */
static void test_earlier_names(void **state)
{
	char *log = file_join(folder, "log.txt"), *base;
	struct conf_node *tree, *over;
	struct sample s;
	struct text t = { 0 };
	struct err e;

	(void)state;
	assert_int_equal(log_file(log, &e), 0);
	for (int i = 0; i < 2; i++) {
		assert_string_equal(fill(&s, "steps: 1\nopt: {speed: 0.5}\n", NULL), "");
		assert_true(s.opt.rate == 0.5);
		conf_release(&s, fields);
	}
	assert_int_equal(logged("t.yaml:2: opt.speed is now called opt.rate"), 1);
	assert_string_equal(fill(&s, "", "opt.speed=0.25"), "");
	assert_true(s.opt.rate == 0.25);
	assert_int_equal(logged("warning: --set opt.speed=0.25: opt.speed is now called opt.rate"), 1);
	tree = conf_empty();
	conf_store(tree, &s, fields, "");
	conf_emit(&t, tree);
	assert_non_null(strstr(t.s, "rate: 0.25"));
	assert_null(strstr(t.s, "speed"));
	text_free(&t);
	conf_node_free(tree);
	conf_release(&s, fields);

	/* mistakes name what was written */
	assert_non_null(strstr(fill(&s, "opt: {speed: 2}\n", NULL), "t.yaml:1: opt.speed = '2': must be in"));
	assert_non_null(strstr(fill(&s, "opt:\n  speed: 1\n  rate: 1\n", NULL),
			       "t.yaml:2: opt.speed is now called opt.rate, which is given as well ("));

	/* whichever name came last counts: of two files, of a file and --set, of a tree and what is laid over
	 * it */
	base = put("base.yaml", "opt: {speed: 0.5}\n");
	assert_string_equal(fill(&s, "extends: base.yaml\nopt: {rate: 0.125}\n", NULL), "");
	assert_true(s.opt.rate == 0.125);
	conf_release(&s, fields);
	free(base);
	base = put("base.yaml", "opt: {rate: 0.5}\n");
	assert_string_equal(fill(&s, "extends: base.yaml\nopt: {speed: 0.125}\n", NULL), "");
	assert_true(s.opt.rate == 0.125);
	conf_release(&s, fields);
	free(base);
	assert_string_equal(fill(&s, "opt: {rate: 0.5}\n", "opt.speed=0.25"), "");
	assert_true(s.opt.rate == 0.25);
	conf_release(&s, fields);
	assert_string_equal(fill(&s, "opt: {speed: 0.5}\n", "opt.rate=0.25"), "");
	assert_true(s.opt.rate == 0.25);
	conf_release(&s, fields);
	base = put("t.yaml", "opt: {speed: 0.5}\nstage: {opt: {rate: 0.25}}\n");
	tree = conf_read(base, &e);
	assert_non_null(tree);
	assert_int_equal(conf_set(tree, "opt.speed=0.75", &e), 0);
	over = conf_copy(tree, "stage");
	conf_remove(tree, "stage");
	conf_overlay(tree, over);
	s = (struct sample) { 0 };
	assert_int_equal(conf_fill(&s, fields, tree, "", NULL, &e), 0);
	assert_true(s.opt.rate == 0.25);
	conf_release(&s, fields);
	conf_node_free(tree);
	free(base);
	log_close();
	free(log);
}

static void test_pages(void **state)
{
	struct text t = { 0 };

	(void)state;
	conf_docs(&t, "Title", fields, "sec");
	assert_non_null(strstr(t.s, "| `sec.opt.rate` | `1e-3` | 0 .. 1 s | rate (formerly `opt.speed`) |"));
	assert_non_null(strstr(t.s, "| `sec.size` | `auto` | auto, all, 1 .. 64 | how large |"));
	assert_non_null(strstr(t.s, "| `sec.opt.pace` | `none` | none, 0 .. 1 | pace |"));
	assert_non_null(strstr(t.s, "| `sec.file` | `linear` | linear, cosine, or a path | kind or file |"));
	assert_non_null(strstr(t.s, "| `sec.opt.kind` | `linear` | linear, cosine | kind |"));
	text_free(&t);
	conf_help(&t, fields, "sec");
	assert_non_null(strstr(t.s, "sec.steps"));
	assert_non_null(strstr(t.s, "(default 1e-3; formerly opt.speed)"));
	text_free(&t);
}

static void note_difference(void *ctx, const char *key, const char *a, const char *b)
{
	text_printf(ctx, "%s: %s -> %s\n", key, a ? a : "-", b ? b : "-");
}

/* Key by key, in the order of the second one, and then what is in the first alone. */
static void test_compare(void **state)
{
	static const char one[] = "a: {x: 1, gone: {y: z}}\nlist: [p, q]\nsame: 'true'\n",
			  other[] = "list: [p, r, s]\nsame: true\na: {x: 1.0, new: ''}\n";
	struct text said = { 0 };
	struct err e;
	struct conf_node *a = conf_parse(one, strlen(one), "one", &e),
			 *b = conf_parse(other, strlen(other), "other", &e);

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(conf_compare(a, b, note_difference, &said), 5);
	assert_string_equal(said.s, "list[1]: q -> r\nlist[2]: - -> s\na.x: 1 -> 1.0\na.new: - -> \n"
				    "a.gone.y: z -> -\n");
	text_free(&said);
	text_add(&said, "");
	assert_int_equal(conf_compare(a, a, note_difference, &said), 0);
	assert_string_equal(said.s, "");
	text_free(&said);
	conf_node_free(a);
	conf_node_free(b);
	/* text that stands alone */
	assert_null(conf_parse("[a]", 3, "run/config.yaml", &e));
	assert_string_equal(e.msg, "run/config.yaml:1: a configuration is a mapping of keys to values");
	assert_null(conf_parse("extends: x.yaml", 15, "run/config.yaml", &e));
	assert_non_null(strstr(e.msg, "run/config.yaml:1: 'extends'"));
	assert_null(conf_parse("a: [", 4, "run/config.yaml", &e));
	assert_non_null(strstr(e.msg, "not valid YAML"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),   cmocka_unit_test(test_mistakes),
		cmocka_unit_test(test_extends),  cmocka_unit_test(test_null),
		cmocka_unit_test(test_required), cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_words),    cmocka_unit_test(test_real_words),
		cmocka_unit_test(test_paths),    cmocka_unit_test(test_earlier_names),
		cmocka_unit_test(test_pages),    cmocka_unit_test(test_compare),
	};
	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
