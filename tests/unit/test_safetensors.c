/* aten/safetensors.h: round trips, zero copies, and every malformed header refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/mem.h"

static char folder[] = "/tmp/test-safetensors-XXXXXX";

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

static void test_round_trip(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *path = file_join(folder, "a.safetensors");
	const float f[6] = { 1, -2, 3.5f, 0, 1e-30f, 6 };
	const uint8_t u[3] = { 1, 2, 255 };
	const int64_t i[2] = { -1, 1ll << 40 };
	struct st_item items[] = { { "f", at_from(f, DIMS(2, 3), AT_F32) },
				   { "u", at_from(u, DIMS(3), AT_U8) },
				   { "i", at_from(i, DIMS(2), AT_I64) },
				   { "half", at_cast(at_from(f, DIMS(2, 3), AT_F32), AT_BF16) },
				   { "empty", at_zeros(DIMS(0, 4), AT_F32, AT_CPU) },
				   { "turned", at_transpose(at_from(f, DIMS(2, 3), AT_F32), 0, 1) } };
	struct st_meta_item meta = { "format", "pt" };
	struct st_file file;
	struct err e;
	at_t t;

	(void)state;
	assert_int_equal(st_write(path, items, 6, &meta, 1, &e), 0);
	assert_int_equal(st_open(&file, path, &e), 0);
	assert_int_equal(file.n, 6);
	assert_string_equal(st_meta(&file, "format"), "pt");
	assert_null(st_meta(&file, "none"));
	for (int k = 0; k < 6; k++) {
		assert_int_equal(st_take(&t, &file, items[k].name, at_shape(items[k].t), &e), 0);
		assert_true(at_equal(t, items[k].t));
	}
	/* A view of the map stays valid after the file is closed and gone. */
	assert_int_equal(st_take(&t, &file, "f", DIMS(2, 3), &e), 0);
	st_close(&file);
	unlink(path);
	assert_true(at_equal(t, items[0].t));
	free(path);
	at_end(s);
}

static void test_take(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_item item = { "layer.weight", at_zeros(DIMS(2, 3), AT_F32, AT_CPU) };
	struct st_file file;
	struct err e;
	char *data;
	size_t n;
	at_t t;

	(void)state;
	assert_int_equal(st_write_bytes(&data, &n, &item, 1, NULL, 0, &e), 0);
	assert_int_equal((uintptr_t)(8 + *(uint64_t *)(void *)data) % 8, 0);
	assert_int_equal(st_open_bytes(&file, data, n, "x", &e), 0);
	assert_int_equal(st_take(&t, &file, "layer.bias", DIMS(2), &e), -1);
	assert_non_null(strstr(e.msg, "'layer.bias' is missing"));
	assert_int_equal(st_take(&t, &file, "layer.weight", DIMS(3, 2), &e), -1);
	assert_non_null(strstr(e.msg, "[2, 3] where [3, 2]"));
	st_close(&file);
	at_end(s);
}

/* A file of this header, and `data` zero bytes behind it; the error of opening it, or "". */
static const char *open_header(const char *header, size_t data)
{
	static struct err e;
	size_t n = strlen(header);
	char *bytes = mem_zero(8 + n + data, 1);
	struct st_file f;

	for (int i = 0; i < 8; i++)
		bytes[i] = (char)(n >> (8 * i));
	memcpy(bytes + 8, header, n);
	if (st_open_bytes(&f, bytes, 8 + n + data, "bad.safetensors", &e))
		return e.msg;
	st_close(&f);
	return "";
}

/* What is not the format's, or not for us: named for what it is. */
static void test_others(void **state)
{
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
			  page[] = "\n<!DOCTYPE html><html><head><title>Login</title></head></html>";
	static const char plain[] =
	    "{\"__metadata__\": null, \"a\": {\"dtype\": \"I16\", \"shape\": [2, 1], "
	    "\"data_offsets\": [0, 4]}, \"w.weight\": {\"dtype\": \"F8_E4M3\", \"shape\": [1], "
	    "\"data_offsets\": [4, 5]}}    ";
	static const char scaled[] =
	    "{\"w.scale_weight\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, "
	    "\"w.weight\": {\"dtype\": \"F8_E4M3\", \"shape\": [1], \"data_offsets\": [4, 5]}}";
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_file f;
	struct err e = { "" };
	at_t t;

	(void)state;
	assert_int_equal(st_open_bytes(&f, mem_str(pointer), sizeof pointer - 1, "x", &e), -1);
	assert_non_null(strstr(e.msg, "a git-lfs pointer: `git lfs pull`"));
	assert_int_equal(st_open_bytes(&f, mem_str(page), sizeof page - 1, "x", &e), -1);
	assert_non_null(strstr(e.msg, "an HTML page"));
	for (int k = 0; k < 2; k++) {
		const char *header = k ? scaled : plain;
		size_t n = strlen(header);
		char *bytes = mem_zero(8 + n + 5, 1);

		bytes[0] = (char)n;
		bytes[1] = (char)(n >> 8);
		memcpy(bytes + 8, header, n);
		bytes[8 + n + 4] = 0x7e; /* 1.75 * 2^8 */
		if (st_open_bytes(&f, bytes, 8 + n + 5, "x", &e))
			fail_msg("%s", e.msg);
		if (k) {
			assert_int_equal(st_take(&t, &f, "w.weight", DIMS(1), &e), -1);
			assert_non_null(strstr(e.msg, "is scaled F8_E4M3 (there is 'w.scale_weight')"));
		} else {
			assert_int_equal(st_take(&t, &f, "a", DIMS(2, 1), &e), -1);
			assert_non_null(strstr(e.msg, "'a' has dtype I16, which is not supported"));
			assert_int_equal(st_take(&t, &f, "w.weight", DIMS(1), &e), 0);
			assert_true(at_item(t) == 448);
		}
		st_close(&f);
	}
	at_end(s);
}

static void test_malformed(void **state)
{
	static const struct {
		const char *header;
		size_t data;
		const char *part;
	} bad[] = {
		{ "", 0, "JSON" },
		{ "{", 0, "JSON" },
		{ "[]", 0, "object" },
		{ "{\"a\": 3}", 0, "'a'" },
		{ "{\"a\": {\"dtype\": \"F9\", \"shape\": [1], \"data_offsets\": [0, 1]}}", 1, "dtype F9" },
		{ "{\"a\": {\"dtype\": \"F4\", \"shape\": [3], \"data_offsets\": [0, 1]}}", 1, "whole byte" },
		{ "{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 4, "dtype" },
		{ "{\"a\": {\"dtype\": \"F32\", \"data_offsets\": [0, 4]}}", 4, "shape" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 4,
		  "impossible shape" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1.5], \"data_offsets\": [0, 4]}}", 4,
		  "impossible shape" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296, 4], \"data_offsets\": "
		  "[0, 4]}}",
		  4, "impossible shape" },
		{ "{\"a\": {\"dtype\": \"U8\", \"shape\": [0, 4611686018427387904, 2], \"data_offsets\": "
		  "[0, 0]}}",
		  0, "impossible shape" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]}}",
		  4, "dimensions" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}", 4, "data_offsets" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 0]}}", 4,
		  "data_offsets" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]}}", 4,
		  "data_offsets" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 4, "need 8" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 3, "truncated" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 5,
		  "behind the last" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 8, "hole" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, \"b\": "
		  "{\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [4, 12]}}",
		  12, "overlap" },
		{ "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \"a\": "
		  "{\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}",
		  8, "duplicate" },
		{ "{\"__metadata__\": {\"a\": 3}}", 0, "__metadata__" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		const char *msg = open_header(bad[i].header, bad[i].data);
		if (!strstr(msg, bad[i].part) || !strstr(msg, "bad.safetensors") || strchr(msg, '\n'))
			fail_msg("case %zu: '%s' lacks '%s'", i, msg, bad[i].part);
	}
	assert_string_equal(open_header("{}", 0), "");
	assert_string_equal(
	    open_header("{\"a\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [0, 4]}}", 4), "");
}

static void test_lengths(void **state)
{
	struct st_file f;
	struct err e;

	(void)state;
	for (size_t n = 0; n < 8; n++) {
		assert_int_equal(st_open_bytes(&f, mem_zero(8, 1), n, "short", &e), -1);
		assert_non_null(strstr(e.msg, "too few"));
	}
	char *huge = mem_alloc(64);
	memset(huge, 0xff, 64);
	assert_int_equal(st_open_bytes(&f, huge, 64, "huge", &e), -1);
	assert_non_null(strstr(e.msg, "not a safetensors file"));
	char *cut = mem_zero(64, 1);
	cut[0] = 100;
	assert_int_equal(st_open_bytes(&f, cut, 64, "cut", &e), -1);
	assert_non_null(strstr(e.msg, "truncated"));
}

/* A tensor that is not aligned for its type is copied, not read in place. */
static void test_misaligned(void **state)
{
	static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
				     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}";
	const float want[2] = { 1.5f, -3 };
	size_t n = sizeof header - 1;
	char *bytes = mem_zero(8 + n + 9, 1);
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_file f;
	struct err e;
	at_t t;

	(void)state;
	bytes[0] = (char)n;
	memcpy(bytes + 8, header, n);
	memcpy(bytes + 8 + n + 1, want, sizeof want);
	assert_int_equal(st_open_bytes(&f, bytes, 8 + n + 9, "x", &e), 0);
	assert_int_equal(st_take(&t, &f, "b", DIMS(2), &e), 0);
	assert_memory_equal(at_f32(t), want, sizeof want);
	st_close(&f);
	at_end(s);
}

/* What would not be read back as it is must not be written; the file that was there stays. */
static void test_write_refused(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t f = at_zeros(DIMS(2), AT_F32, AT_CPU), d = at_zeros(DIMS(2), AT_F64, AT_CPU);
	static const char broken[] = { 'a', (char)0xff, 0 };
	struct st_item twice[] = { { "a", f }, { "b", f }, { "a", d } }, reserved = { "__metadata__", f },
		       unnamed = { broken, f }, fine = { "a", f };
	struct st_meta_item value = { "key", broken }, key = { broken, "value" };
	char *path = file_join(folder, "refused.safetensors"), *data;
	size_t n;
	struct err e;
	struct st_file file;

	(void)state;
	assert_int_equal(st_write(path, &fine, 1, NULL, 0, &e), 0);
	assert_int_equal(st_write(path, twice, 3, NULL, 0, &e), -1);
	assert_non_null(strstr(e.msg, "two tensors 'a'"));
	assert_non_null(strstr(e.msg, path));
	assert_int_equal(st_write_bytes(&data, &n, &reserved, 1, NULL, 0, &e), -1);
	assert_int_equal(st_write_bytes(&data, &n, &unnamed, 1, NULL, 0, &e), -1);
	assert_non_null(strstr(e.msg, "UTF-8"));
	assert_int_equal(st_write_bytes(&data, &n, &fine, 1, &value, 1, &e), -1);
	assert_non_null(strstr(e.msg, "'key' is not text in UTF-8"));
	assert_int_equal(st_write_bytes(&data, &n, &fine, 1, &key, 1, &e), -1);
	assert_int_equal(st_open(&file, path, &e), 0);
	assert_int_equal(file.n, 1);
	st_close(&file);
	free(path);
	at_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_take),
		cmocka_unit_test(test_others),        cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_lengths),       cmocka_unit_test(test_misaligned),
		cmocka_unit_test(test_write_refused),
	};
	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
