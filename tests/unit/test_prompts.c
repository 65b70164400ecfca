#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "data/prompts.h"

static char dir[] = "/tmp/test_prompts_XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

static int read_as(struct prompts *p, const char *name, const char *data, size_t size, struct err *e)
{
	char *path = file_join(dir, name);

	assert_int_equal(file_write(path, data, size, e), 0);
	int ret = prompts_read(p, path, e);
	free(path);
	return ret;
}

static void txt(void **state)
{
	static const char data[] = "\xef\xbb\xbf"
				   "a cat\r\n\n   \t\n  two words \na cat";
	struct prompts p;
	struct err e;

	(void)state;
	assert_int_equal(read_as(&p, "a.txt", data, sizeof data - 1, &e), 0);
	assert_int_equal(p.n, 3);
	assert_string_equal(p.v[0].text, "a cat");
	assert_string_equal(p.v[1].text, "two words");
	assert_string_equal(p.v[2].text, "a cat"); /* equal texts stay two prompts */
	assert_string_equal(p.v[0].meta, "{}");
	assert_string_equal(p.v[0].tag, "");
	assert_non_null(strstr(p.path, "a.txt"));
	prompts_free(&p);
	assert_null(p.v);
	prompts_free(&p);
}

/* [x.strip() for x in open(path)] of Python 3.11 has these, but for the blank ones. */
static void lines_as_python_reads_them(void **state)
{
	static const char data[] = "x\ry\r\r\nz\xe2\x80\xa8w\x0bv\n\xc2\xa0 u \xe3\x80\x80\r\nt\xc2\x85s\x0c";
	static const char *const want[] = { "x", "y", "z\xe2\x80\xa8w\x0bv", "u", "t\xc2\x85s" };
	static const char seed[] = "{\"prompt\": \"a\", \"seed\": 18446744073709551615}\r{\"prompt\": \"b\"}";
	struct prompts p;
	struct err e = { "" };

	(void)state;
	assert_int_equal(read_as(&p, "l.txt", data, sizeof data - 1, &e), 0);
	assert_int_equal(p.n, 5);
	for (int i = 0; i < 5; i++)
		assert_string_equal(p.v[i].text, want[i]);
	prompts_free(&p);
	if (read_as(&p, "l.jsonl", seed, sizeof seed - 1, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(p.n, 2);
	assert_string_equal(p.v[1].text, "b");
	prompts_free(&p);
}

/* A line of GenEval's own metadata.jsonl. */
static void jsonl(void **state)
{
	static const char data[] = "{\"tag\": \"counting\", \"include\": [{\"class\": \"clock\", \"count\": "
				   "2}], \"exclude\": [{\"class\": "
				   "\"clock\", \"count\": 3}], \"prompt\": \"a photo of two "
				   "clocks\"}\n\n{\"prompt\": \"\\u00e9t\\u00e9\"}";
	struct prompts p;
	struct err e;

	(void)state;
	assert_int_equal(read_as(&p, "a.jsonl", data, sizeof data - 1, &e), 0);
	assert_int_equal(p.n, 2);
	assert_string_equal(p.v[0].text, "a photo of two clocks");
	assert_string_equal(p.v[0].tag, "counting");
	assert_string_equal(p.v[0].meta, "{\"exclude\":[{\"class\":\"clock\",\"count\":3}],\"include\":[{"
					 "\"class\":\"clock\",\"count\":2}],"
					 "\"prompt\":\"a photo of two clocks\",\"tag\":\"counting\"}");
	assert_string_equal(p.v[1].text, "\xc3\xa9t\xc3\xa9");
	assert_string_equal(p.v[1].tag, "");
	prompts_free(&p);
}

static int64_t seen(const char *held, const char *trained, const char *first)
{
	struct prompts a, b;
	const char *said;
	struct err e;

	assert_int_equal(read_as(&a, "held.txt", held, strlen(held), &e), 0);
	assert_int_equal(read_as(&b, "trained.txt", trained, strlen(trained), &e), 0);
	int64_t n = prompts_seen(&a, &b, &said);
	if (first)
		assert_string_equal(said, first);
	else
		assert_null(said);
	prompts_free(&a);
	prompts_free(&b);
	return n;
}

static void held_out_prompts_that_are_trained(void **state)
{
	(void)state;
	assert_int_equal(seen("a cat\na dog\n", "a cat and a dog\na\ncat\n", NULL), 0);
	assert_int_equal(seen("z\nc\na\nz\nb\nc\n", "y\nb\nx\nz\nz\n", "z"), 2); /* z and b */
	assert_int_equal(seen("b\n", "b\n", "b"), 1);
}

static void refuse(const char *name, const char *data, size_t size, const char *said)
{
	struct prompts p;
	struct err e = { "" };

	if (!read_as(&p, name, data, size, &e) || !strstr(e.msg, said) || !strstr(e.msg, name))
		fail_msg("%s: '%s', wanted '%s'", data, e.msg, said);
	assert_null(p.v);
	assert_int_equal(p.n, 0);
}

static void bad_files(void **state)
{
	struct prompts p;
	struct err e;

	(void)state;
	refuse("b.txt", "", 0, "no prompts");
	refuse("b.txt", "\n \n", 3, "no prompts");
	refuse("b.txt", "one\ntw\0o\n", 9, "b.txt:2: a NUL byte");
	refuse("b.csv", "one\n", 4, "named .txt or .jsonl");
	refuse("b.jsonl", "", 0, "no prompts");
	refuse("b.jsonl", "{\"prompt\": \"x\"}\n\n{\"prompt\": \"y\"\n", 33, "b.jsonl:3:");
	refuse("b.jsonl", "{\"prompt\": \"x\"} x\n", 18, "b.jsonl:1:");
	refuse("b.jsonl", "[\"x\"]\n", 6, "b.jsonl:1: not a JSON object");
	refuse("b.jsonl", "{\"prompt\": \"x\"}\n{\"text\": \"y\"}\n", 30, "b.jsonl:2: no \"prompt\"");
	refuse("b.jsonl", "{\"prompt\": 7}\n", 14, "b.jsonl:1: 'prompt' is not");
	refuse("b.jsonl", "{\"prompt\": \"x\", \"tag\": 1}\n", 26, "b.jsonl:1: 'tag' is not");
	refuse("b.jsonl", "{\"prompt\": \"x\", \"prompt\": \"y\"}\n", 31, "b.jsonl:1:");
	assert_int_equal(prompts_read(&p, "/nonexistent/p.txt", &e), -1);
	assert_non_null(strstr(e.msg, "/nonexistent/p.txt"));
}

/* ---- drawing ---- */

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

static void without_replacement(void **state)
{
	enum { N = 50 };
	struct prompts p = make(N, 1);
	int64_t a[N], b[N], c[N], d[N];
	int seen[N] = { 0 }, fixed = 0;

	(void)state;
	prompts_draw(&p, 1, 0, N, false, a);
	for (int i = 0; i < N; i++) {
		assert_in_range(a[i], 0, N - 1);
		seen[a[i]]++;
		fixed += a[i] == i;
	}
	for (int i = 0; i < N; i++)
		assert_int_equal(seen[i], 1);
	assert_true(fixed < 10);
	prompts_draw(&p, 1, 0, N, false, b);
	assert_memory_equal(a, b, sizeof a);
	prompts_draw(&p, 1, 0, 7, false, b); /* fewer groups: the same beginning */
	assert_memory_equal(a, b, 7 * sizeof *a);
	prompts_draw(&p, 1, 1, N, false, c);
	prompts_draw(&p, 2, 0, N, false, d);
	assert_memory_not_equal(a, c, sizeof a);
	assert_memory_not_equal(a, d, sizeof a);
	assert_memory_not_equal(c, d, sizeof a);
	prompts_free(&p);
}

static void more_groups_than_prompts(void **state)
{
	enum { N = 10, GROUPS = 35 };
	struct prompts p = make(N, 3);
	int64_t out[GROUPS];

	(void)state;
	prompts_draw(&p, 3, 9, GROUPS, false, out);
	for (int round = 0; round < 3; round++) {
		int seen[N] = { 0 };
		for (int i = 0; i < N; i++)
			assert_int_equal(seen[out[round * N + i]]++, 0);
	}
	assert_memory_not_equal(out, out + N, N * sizeof *out); /* shuffled anew */
	for (int i = 30; i < GROUPS; i++)
		for (int j = 30; j < i; j++)
			assert_true(out[i] != out[j]);
	prompts_free(&p);
}

/* Tag 0 has 2 prompts, tag 1 has 20, tag 2 has 100. */
static struct prompts make_uneven(void)
{
	struct prompts p = make(122, 1);

	for (int64_t i = 0; i < p.n; i++) {
		free(p.v[i].tag);
		p.v[i].tag = mem_str(i % 60 == 0 && i < 61      ? "rare"
				     : i % 6 == 1 && i / 6 < 20 ? "some"
								: "many");
	}
	return p;
}

static void tags_take_turns(void **state)
{
	enum { GROUPS = 8, EPOCHS = 30 };
	struct prompts p = make_uneven();
	int64_t out[GROUPS];
	int rare = 0, some = 0, many = 0;

	(void)state;
	for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
		int64_t last_rare = -1;
		prompts_draw(&p, 5, epoch, GROUPS, true, out);
		for (int i = 0; i < GROUPS; i++) {
			const char *tag = p.v[out[i]].tag;
			rare += !strcmp(tag, "rare"), some += !strcmp(tag, "some"),
			    many += !strcmp(tag, "many");
			if (i >= 3)
				assert_string_equal(tag, p.v[out[i - 3]].tag);
			if (!strcmp(tag, "rare")) {
				/* Two of them: each once before the first comes again. */
				if (last_rare >= 0 && i < 6)
					assert_true(out[i] != last_rare);
				last_rare = out[i];
			}
		}
	}
	/* 8 groups over 3 tags, rotated by epoch: exactly a third each over three epochs. */
	assert_int_equal(rare, GROUPS * EPOCHS / 3);
	assert_int_equal(some, GROUPS * EPOCHS / 3);
	assert_int_equal(many, GROUPS * EPOCHS / 3);
	prompts_draw(&p, 5, 0, GROUPS, true, out);
	assert_string_equal(p.v[out[0]].tag, "rare"); /* first appearance */
	assert_string_equal(p.v[out[1]].tag, "some");
	prompts_draw(&p, 5, 1, GROUPS, true, out);
	assert_string_equal(p.v[out[0]].tag, "some");
	prompts_free(&p);
}

/* Each tag's own permutation: nothing twice before its prompts are used up. */
static void tags_without_replacement(void **state)
{
	struct prompts p = make(60, 6);
	int64_t out[60];
	int seen[60] = { 0 };

	(void)state;
	prompts_draw(&p, 1, 4, 60, true, out);
	for (int i = 0; i < 60; i++)
		assert_int_equal(seen[out[i]]++, 0);
	prompts_free(&p);
}

static void shares(void **state)
{
	(void)state;
	for (int64_t n = 0; n < 40; n++) {
		for (int ranks = 1; ranks < 12; ranks++) {
			int64_t next = 0, least = n, most = 0;
			for (int r = 0; r < ranks; r++) {
				int64_t begin, end;
				prompts_share(n, r, ranks, &begin, &end);
				assert_int_equal(begin, next);
				assert_true(end >= begin);
				least = end - begin < least ? end - begin : least;
				most = end - begin > most ? end - begin : most;
				next = end;
			}
			assert_int_equal(next, n);
			assert_true(most - least <= 1);
		}
	}
}

/* The samples of all ranks together are the same for any number of ranks: what rank r works on is a slice of
 * them. */
static void same_for_any_ranks(void **state)
{
	enum { GROUPS = 18, IMAGES = 16, ALL = GROUPS * IMAGES };
	struct prompts p = make(40, 4);
	int64_t once[GROUPS], got[ALL];

	(void)state;
	prompts_draw(&p, 8, 3, GROUPS, true, once);
	for (int ranks = 1; ranks <= 7; ranks++) {
		for (int r = 0; r < ranks; r++) {
			int64_t begin, end, out[GROUPS];
			prompts_draw(&p, 8, 3, GROUPS, true, out);
			prompts_share(ALL, r, ranks, &begin, &end);
			for (int64_t i = begin; i < end; i++)
				got[i] = out[i / IMAGES];
		}
		for (int i = 0; i < ALL; i++)
			assert_int_equal(got[i], once[i / IMAGES]);
	}
	prompts_free(&p);
}

/* As GenEval's metadata.jsonl has them, a line of every tag. */
static void geneval(void **state)
{
	static const char *const line[] = {
		"{\"tag\": \"single_object\", \"include\": [{\"class\": \"umbrella\", \"count\": 1}], "
		"\"prompt\": \"a photo of an umbrella\"}",
		"{\"tag\": \"two_object\", \"include\": [{\"class\": \"tv remote\", \"count\": 1}, "
		"{\"class\": \"hair drier\", \"count\": 1}], \"prompt\": \"a photo of a tv remote and a hair "
		"drier\"}",
		"{\"tag\": \"counting\", \"include\": [{\"class\": \"computer mouse\", \"count\": 3}], "
		"\"exclude\": [{\"class\": \"computer mouse\", \"count\": 4}], \"prompt\": \"a photo of "
		"three computer mouses\"}",
		"{\"tag\": \"colors\", \"include\": [{\"class\": \"fire hydrant\", \"count\": 1, \"color\": "
		"\"purple\"}], \"prompt\": \"a photo of a purple fire hydrant\"}",
		"{\"tag\": \"position\", \"include\": [{\"class\": \"kite\", \"count\": 1}, {\"class\": "
		"\"cow\", \"count\": 1, \"position\": [\"left of\", 0]}], \"prompt\": \"a photo of a cow "
		"left of a kite\"}",
		"{\"tag\": \"color_attr\", \"include\": [{\"class\": \"oven\", \"count\": 1, \"color\": "
		"\"pink\"}, {\"class\": \"sink\", \"count\": 1, \"color\": \"brown\"}], \"prompt\": \"a "
		"photo of a pink oven and a brown sink\"}",
	};
	static const char *const tag[] = { "single_object", "two_object", "counting",
					   "colors",        "position",   "color_attr" };
	struct text all = { 0 };
	struct prompts p;
	struct err e;
	int64_t drawn[12];
	int seen[6] = { 0 };

	(void)state;
	for (int i = 0; i < 6; i++)
		text_printf(&all, "%s\n", line[i]);
	assert_int_equal(read_as(&p, "metadata.jsonl", all.s, all.n, &e), 0);
	assert_int_equal(p.n, 6);
	assert_string_equal(p.v[4].text, "a photo of a cow left of a kite");
	for (int i = 0; i < 6; i++) {
		json_t *want = json_parse(line[i], strlen(line[i]), "line", &e),
		       *meta = json_parse(p.v[i].meta, strlen(p.v[i].meta), "meta", &e);
		assert_string_equal(p.v[i].tag, tag[i]);
		assert_true(json_equal(want, meta)); /* nothing is lost on the way to the reward */
		json_decref(want);
		json_decref(meta);
	}
	prompts_draw(&p, 1, 0, 12, true, drawn);
	for (int i = 0; i < 12; i++)
		seen[drawn[i]]++;
	for (int i = 0; i < 6; i++)
		assert_int_equal(seen[i], 2);
	prompts_free(&p);
	text_free(&all);
}

/* The fullest rank's work in an epoch, the sum of its largest share of each step, over what it would be if
 * all shares were equal. */
static double fullest(int64_t n, int ranks, int64_t parts, bool anew, int64_t epoch)
{
	int64_t *part = mem_zero((size_t)n, sizeof *part);
	int64_t most[8] = { 0 }, least[8], in_all[8] = { 0 }, begin, end, sum = 0;

	for (int p = 0; p < 8; p++)
		least[p] = n;
	prompts_deal(n, parts, anew, 7, epoch, part);
	for (int r = 0; r < ranks; r++) {
		int64_t count[8] = { 0 };

		prompts_share(n, r, ranks, &begin, &end);
		for (int64_t i = begin; i < end; i++) {
			assert_true(part[i] >= 0 && part[i] < parts);
			count[part[i]]++;
			in_all[part[i]]++;
		}
		for (int p = 0; p < parts; p++) {
			most[p] = count[p] > most[p] ? count[p] : most[p];
			least[p] = count[p] < least[p] ? count[p] : least[p];
		}
	}
	for (int p = 0; p < parts; p++) {
		int64_t even = n / parts;

		assert_true(in_all[p] == even || in_all[p] == even + 1); /* each sample is in one part */
		assert_true(most[p] - least[p] <= (anew ? 3 : 1));
		sum += most[p];
	}
	free(part);
	return (double)(sum * ranks) / (double)n;
}

/* No rank waits for another's longer step: shares of every step differ by at most one. */
static void deals(void **state)
{
	static const int64_t sizes[] = { 1152, 1151, 1149, 1000, 997, 768, 129 };
	double worst[2] = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		for (int ranks = 1; ranks <= 64; ranks++)
			for (int64_t parts = 1; parts <= 8; parts++)
				for (int64_t epoch = 0; epoch < 3; epoch++) {
					fullest(sizes[i], ranks, parts, true, epoch);
					double x = fullest(sizes[i], ranks, parts, false, epoch);
					/* one sample more in each of its steps, at most */
					assert_true(x <= 1 + (double)(parts * ranks) / (double)sizes[i]);
				}
	for (int ranks = 8; ranks <= 64; ranks *= 2)
		for (int64_t parts = 2; parts <= 4; parts += 2) {
			double x = fullest(1152, ranks, parts, false, 0);

			worst[parts == 4] = x > worst[parts == 4] ? x : worst[parts == 4];
			print_message("%d ranks, %d parts: the fullest rank's share is %.3f\n", ranks,
				      (int)parts, x);
		}
	assert_true(worst[0] == 1);
	assert_true(worst[1] < 1.12); /* 64 ranks: 18 samples in 4 steps, of 4 or 5 each */
}

/* Another deal each epoch, and anew in each block where that is asked for. */
static void deals_are_drawn(void **state)
{
	int64_t a[400], b[400], changed[2] = { 0 };

	(void)state;
	for (int anew = 0; anew < 2; anew++) {
		prompts_deal(400, 4, anew, 1, 0, a);
		prompts_deal(400, 4, anew, 1, 0, b);
		assert_memory_equal(a, b, sizeof a);
		prompts_deal(400, 4, anew, 1, 1, b);
		assert_memory_not_equal(a, b, sizeof a);
		for (int i = 4; i < 400; i++)
			changed[anew] += a[i] != a[i - 4];
	}
	assert_true(changed[0] == 0 && changed[1] > 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(txt),
		cmocka_unit_test(lines_as_python_reads_them),
		cmocka_unit_test(jsonl),
		cmocka_unit_test(geneval),
		cmocka_unit_test(held_out_prompts_that_are_trained),
		cmocka_unit_test(bad_files),
		cmocka_unit_test(without_replacement),
		cmocka_unit_test(more_groups_than_prompts),
		cmocka_unit_test(tags_take_turns),
		cmocka_unit_test(tags_without_replacement),
		cmocka_unit_test(shares),
		cmocka_unit_test(same_for_any_ranks),
		cmocka_unit_test(deals),
		cmocka_unit_test(deals_are_drawn),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
