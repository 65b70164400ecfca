/* Embeddings: encoded once, kept on disk with all their bits, made again when the file is damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/file.h"
#include "base/mem.h"
#include "models/text/conditioner.h"

#define L 5
#define E 7
#define P 3

static char dir[] = "/tmp/test_conditioner.XXXXXX";

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

/* An encoder that counts: values are a function of the prompt's bytes and of the position. */
static struct {
	int opened, closed, encoded;
	uint64_t hash;
} seen;

static int open_fake(void **state, const struct text_options *o, struct err *e)
{
	(void)e;
	assert_string_equal(o->dir, "somewhere");
	seen.opened++;
	*state = mem_zero(1, sizeof(enum at_dtype));
	*(enum at_dtype *)*state = o->dtype;
	return 0;
}

static int hash_fake(uint64_t *hash, const struct text_options *o, struct err *e)
{
	(void)o;
	(void)e;
	*hash = seen.hash;
	return 0;
}

static float value(const char *prompt, int i)
{
	return (float)sin((double)file_hash(prompt, strlen(prompt), (uint64_t)i) * 1e-17) *
	       (i % 4 ? 1.f : 1e-30f);
}

static int encode_fake(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	float text[L * E], pooled[P];

	assert_int_equal(n, 1);
	seen.encoded++;
	if (!strcmp(prompts[0], "bad"))
		return err_set(e, "the prompt is bad");
	for (int i = 0; i < L * E; i++)
		text[i] = value(prompts[0], i);
	for (int i = 0; i < P; i++)
		pooled[i] = -value(prompts[0], i);
	/* a prompt of one word has one entry less than the others */
	int64_t length = strchr(prompts[0], ' ') ? L : L - 1;
	*out = (struct cond) { 0 };
	cond_add(out, COND_TEXT, at_cast(at_from(text, DIMS(1, length, E), AT_F32), *(enum at_dtype *)state),
		 NULL);
	cond_add(out, COND_POOLED, at_cast(at_from(pooled, DIMS(1, P), AT_F32), *(enum at_dtype *)state),
		 NULL);
	return 0;
}

static void close_fake(void *state)
{
	seen.closed++;
	free(state);
}

static const struct text_encoder_type fake = {
	.class_name = "Fake", .open = open_fake, .hash = hash_fake, .encode = encode_fake, .close = close_fake
};
static const struct text_encoder_type cheap = {
	.class_name = "Cheap", .open = open_fake, .encode = encode_fake, .close = close_fake
};

static struct conditioner *start(const struct text_encoder_type *type, enum at_dtype dt, uint64_t hash,
				 const char *cache)
{
	struct text_options o = { .dir = (char[]) { "somewhere" }, .dtype = dt };
	struct conditioner *c = NULL;
	struct err e = { "" };

	memset(&seen, 0, sizeof seen);
	seen.hash = hash;
	if (conditioner_open(&c, type, &o, cache, NULL, &e))
		fail_msg("%s", e.msg);
	return c;
}

static void expect(struct conditioner *c, enum at_dtype dt, int n, const char *const *prompts)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct err e = { "" };
	struct cond out = { 0 };
	int64_t longest = 0, shortest = L;

	if (conditioner_encode(c, prompts, n, &out, &e))
		fail_msg("%s", e.msg);
	for (int i = 0; i < n; i++) {
		int64_t length = strchr(prompts[i], ' ') ? L : L - 1;

		longest = length > longest ? length : longest;
		shortest = length < shortest ? length : shortest;
	}
	at_t length_B, text_BLE = cond_get(&out, COND_TEXT, &length_B),
		       pooled_BP = cond_get(&out, COND_POOLED, NULL);
	assert_true(at_shape_is(text_BLE, DIMS(n, longest, E)) && at_shape_is(pooled_BP, DIMS(n, P)));
	assert_int_equal(at_dtype_of(text_BLE), dt);
	assert_int_equal(length_B != NULL, longest != shortest);
	for (int i = 0; i < n; i++) {
		struct cond want = { 0 };

		assert_int_equal(encode_fake(&dt, &prompts[i], 1, &want, &e), 0);
		seen.encoded--;
		int64_t length = cond_tokens(&want);
		assert_true(at_equal(at_narrow(at_narrow(text_BLE, 0, i, 1), 1, 0, length),
				     cond_get(&want, COND_TEXT, NULL)));
		assert_true(!length_B || at_i64(length_B)[i] == length);
		assert_true(at_equal(at_narrow(pooled_BP, 0, i, 1), cond_get(&want, COND_POOLED, NULL)));
	}
	at_end(s);
}
#define PROMPTS(...) ((const char *const[]) { __VA_ARGS__ })

/* Every file below a folder, one at a time. */
static int walk(const char *path, void (*f)(const char *file))
{
	DIR *d = opendir(path);
	int n = 0;

	assert_non_null(d);
	for (struct dirent *x; (x = readdir(d));) {
		char *sub = file_join(path, x->d_name);

		if (x->d_name[0] != '.') {
			if (file_is_dir(sub)) {
				n += walk(sub, f);
			} else {
				n++;
				if (f)
					f(sub);
			}
		}
		free(sub);
	}
	closedir(d);
	return n;
}

static void once(void **state)
{
	char *cache = file_join(dir, "once");
	static const enum at_dtype types[] = { AT_F32, AT_BF16, AT_F16 };

	(void)state;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		struct conditioner *c = start(&fake, types[i], i, cache);

		assert_int_equal(seen.opened, 0); /* not before it is needed */
		expect(c, types[i], 3, PROMPTS("a cat", "", "a cat"));
		assert_true(seen.opened == 1 && seen.encoded == 2);
		conditioner_rest(c);
		assert_int_equal(seen.closed, 1);
		expect(c, types[i], 2, PROMPTS("a cat", "a cat"));
		assert_true(seen.opened == 1 && seen.encoded == 2);
		expect(c, types[i], 2, PROMPTS("a dog", "")); /* opened again for one more */
		assert_true(seen.opened == 2 && seen.encoded == 3);
		conditioner_close(c);
		assert_int_equal(seen.closed, 2);

		/* another process finds them; another encoder does not */
		c = start(&fake, types[i], i, cache);
		expect(c, types[i], 3, PROMPTS("a dog", "a cat", ""));
		assert_true(!seen.opened && !seen.encoded);
		conditioner_close(c);
		c = start(&fake, types[i], 100 + i, cache);
		expect(c, types[i], 1, PROMPTS("a dog"));
		assert_int_equal(seen.encoded, 1);
		conditioner_close(c);
	}
	assert_int_equal(walk(cache, NULL), 3 * 4);
	free(cache);
}

/* An encoder that fills rows up itself, for a GPU's sake: L entries, of which a letter of the prompt counts
 * one. */
static int encode_filled(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	(void)state;
	(void)e;
	seen.encoded++;
	*out = (struct cond) { 0 };
	cond_add(out, COND_TEXT, at_full(DIMS(n, L, E), 1, AT_F32, AT_CPU),
		 at_full(DIMS(n), (double)strlen(prompts[0]), AT_I64, AT_CPU));
	cond_add(out, COND_POOLED, at_full(DIMS(n, P), 1, AT_F32, AT_CPU), NULL);
	return 0;
}

static void lengths(void **state)
{
	static const struct text_encoder_type filled = { .class_name = "Filled",
							 .open = open_fake,
							 .hash = hash_fake,
							 .encode = encode_filled,
							 .close = close_fake };
	char *cache = file_join(dir, "lengths");

	(void)state;
	for (int run = 0; run < 2; run++) { /* encoded, then from the cache */
		struct at_scope *s = at_begin(AT_NO_GRAD);
		struct conditioner *c = start(&filled, AT_F32, 5, cache);
		struct cond out = { 0 };
		struct err e = { "" };
		at_t length_B, pooled_length;

		assert_int_equal(conditioner_encode(c, PROMPTS("abc", "", "abcde"), 3, &out, &e), 0);
		assert_int_equal(seen.encoded, run ? 0 : 3);
		assert_true(at_shape_is(cond_get(&out, COND_TEXT, &length_B), DIMS(3, L, E)));
		assert_non_null(length_B);
		assert_true(at_i64(length_B)[0] == 3 && at_i64(length_B)[1] == 0 && at_i64(length_B)[2] == 5);
		cond_get(&out, COND_POOLED, &pooled_length);
		assert_null(pooled_length);
		conditioner_close(c);
		at_end(s);
	}
	free(cache);
}

/* As a rank goes through its share: 0, or -1 after the first prompt that fails. */
static int fill(struct conditioner *c, const char *const *prompts, int64_t n, int share, int shares,
		struct err *e)
{
	int64_t missing[16], k = conditioner_missing(c, prompts, n, share, shares, missing);

	for (int64_t i = 0; i < k; i++)
		if (conditioner_make(c, prompts[missing[i]], NULL, e))
			return -1;
	return 0;
}

/* What one takes says what many will. */
static void sizes(void **state)
{
	char *cache = file_join(dir, "sizes");
	struct conditioner *c = start(&fake, AT_F32, 8, cache);
	struct conditioner_size size;
	double room = -1;
	struct err e = { "" };

	(void)state;
	assert_int_equal(conditioner_make(c, "a cat", &size, &e), 0);
	assert_true(size.plain == 4 * (L * E + P) && size.stored >= 4096 && (int64_t)size.stored % 512 == 0);
	assert_true(!strncmp(conditioner_space(c, &room), cache, strlen(cache)) && room > 0);
	conditioner_close(c);
	c = start(&fake, AT_F32, 8, NULL);
	assert_int_equal(conditioner_make(c, "a cat", &size, &e), 0);
	assert_true(size.stored == 0 && !conditioner_space(c, &room));
	conditioner_close(c);
	free(cache);
}

static void shares(void **state)
{
	static const char *const prompts[] = { "a", "b", "c", "d", "a", "e", "f" };
	char *cache = file_join(dir, "shares");
	struct conditioner *c = start(&fake, AT_F32, 7, cache);
	struct err e = { "" };

	(void)state;
	assert_int_equal(fill(c, prompts, 7, 1, 3, &e), 0); /* b, a */
	assert_int_equal(seen.encoded, 2);
	assert_int_equal(fill(c, prompts, 7, 0, 3, &e), 0); /* a is there; d, f */
	assert_int_equal(seen.encoded, 4);
	assert_int_equal(fill(c, prompts, 7, 0, 1, &e), 0); /* c, e */
	assert_int_equal(seen.encoded, 6);
	assert_int_equal(fill(c, PROMPTS("g", "bad", "h"), 3, 0, 1, &e), -1);
	assert_string_equal(e.msg, "the prompt is bad");
	conditioner_close(c);
	free(cache);
}

static void cut(const char *file)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(truncate(file, st.st_size / 2), 0);
}

static void flip(const char *file)
{
	struct err e;
	char *data;
	size_t n;

	assert_int_equal(file_read(&data, &n, file, &e), 0);
	data[n / 2] ^= 4;
	assert_int_equal(file_write(file, data, n, &e), 0);
	free(data);
}

static void empty(const char *file)
{
	assert_int_equal(truncate(file, 0), 0);
}

/* A valid file, of something else. */
static void foreign(const char *file)
{
	struct err e;

	assert_int_equal(file_write_zstd(file, "other", 5, 1, &e), 0);
}

static void damaged(void **state)
{
	static void (*const damage[])(const char *) = { cut, flip, empty, foreign };
	char *cache = file_join(dir, "damaged");

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct conditioner *c = start(&fake, AT_F32, 9, cache);

		expect(c, AT_F32, 1, PROMPTS("a cat"));
		assert_int_equal(walk(cache, damage[i]), 1);
		seen.encoded = 0;
		expect(c, AT_F32, 2, PROMPTS("a cat", "a cat"));
		assert_int_equal(seen.encoded, 1);
		conditioner_close(c);
	}
	free(cache);
}

/* No cache, and an encoder that needs none: open from the start, and never closed before its time. */
static void without(void **state)
{
	char *cache = file_join(dir, "without");
	struct err e = { "" };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct conditioner *c = start(i ? &cheap : &fake, AT_F32, 1, i ? cache : NULL);

		assert_int_equal(seen.opened, 1);
		expect(c, AT_F32, 2, PROMPTS("a", "a"));
		assert_int_equal(seen.encoded, 2);
		conditioner_rest(c);
		assert_int_equal(seen.closed, 0);
		assert_int_equal(fill(c, PROMPTS("a", "bad"), 2, 0, 1, &e), -1);
		conditioner_close(c);
		assert_int_equal(seen.closed, 1);
	}
	assert_false(file_is_dir(cache));
	free(cache);
}

static void no_place(void **state)
{
	char *file = file_join(dir, "a file"), *cache = file_join(file, "cache");
	struct text_options o = { .dir = "somewhere" };
	struct conditioner *c;
	struct err e = { "" };

	(void)state;
	assert_int_equal(file_write(file, "", 0, &e), 0);
	assert_int_equal(conditioner_open(&c, &fake, &o, cache, NULL, &e), -1);
	assert_non_null(strstr(e.msg, "model.text_cache"));
	assert_non_null(strstr(e.msg, file));
	free(file);
	free(cache);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(once),    cmocka_unit_test(shares),   cmocka_unit_test(damaged),
		cmocka_unit_test(without), cmocka_unit_test(no_place), cmocka_unit_test(sizes),
		cmocka_unit_test(lengths),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
