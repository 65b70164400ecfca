/* st_open_model: every layout of a model folder, and what is wrong with broken ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/mem.h"

static char dir[] = "/tmp/test_model_XXXXXX";

static void put(const char *name, const char *text)
{
	char *path = file_join(dir, name);
	struct err e;
	assert_int_equal(file_write(path, text, strlen(text), &e), 0);
	free(path);
}

/* NAME with one-element tensors called as the letters of `tensors`, each of value `value`. */
static void put_tensors(const char *name, const char *tensors, double value)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_item item[8];
	char key[8][2], *path = file_join(dir, name);
	struct err e = { "" };
	int n = (int)strlen(tensors);

	for (int i = 0; i < n; i++) {
		memcpy(key[i], (char[2]) { tensors[i], 0 }, 2);
		item[i] = (struct st_item) { key[i], at_full(DIMS(1), value, AT_F32, AT_CPU) };
	}
	if (st_write(path, item, n, NULL, 0, &e))
		fail_msg("%s", e.msg);
	free(path);
	at_end(s);
}

static void clean(void)
{
	struct err e;
	assert_int_equal(file_remove_tree(dir, &e), 0);
	assert_int_equal(file_mkdirs(dir, &e), 0);
}

/* The values of the tensors a, b, ... as one number a digit each; -1 when the folder is refused. */
static int values(const char *variant, int n, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_file f;
	int out = 0;

	if (st_open_model(&f, dir, "model", variant, e)) {
		at_end(s);
		return -1;
	}
	assert_int_equal(f.n, n);
	for (int i = 0; i < n; i++) {
		at_t t;
		char name[2] = { (char)('a' + i), 0 };
		assert_int_equal(st_take(&t, &f, name, DIMS(1), e), 0);
		st_forget(st_find(&f, name)); /* the bytes stay readable */
		out = 10 * out + (int)at_item(t);
	}
	st_close(&f);
	at_end(s);
	return out;
}

static void refused(const char *variant, const char *why)
{
	struct err e = { "" };

	assert_int_equal(values(variant, 0, &e), -1);
	if (!strstr(e.msg, why))
		fail_msg("'%s' does not say '%s'", e.msg, why);
}

static void single_files(void **state)
{
	struct err e;

	(void)state;
	clean();
	put_tensors("model.fp16.safetensors", "ab", 2);
	assert_int_equal(values(NULL, 2, &e), 22); /* the only one there is */
	put_tensors("model.safetensors", "ab", 1);
	put_tensors("model_other.safetensors", "ab", 9);
	assert_int_equal(values(NULL, 2, &e), 11);
	assert_int_equal(values("fp16", 2, &e), 22);
	refused("bf16", "no weights of variant 'bf16'");
}

static void shards(void **state)
{
	struct err e;

	(void)state;
	clean();
	put_tensors("model-00001-of-00002.safetensors", "ac", 1);
	put_tensors("model-00002-of-00002.safetensors", "b", 2);
	put("model.safetensors.index.json",
	    "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", \"b\": "
	    "\"model-00002-of-00002.safetensors\", \"c\": \"model-00001-of-00002.safetensors\"}}");
	assert_int_equal(values(NULL, 3, &e), 121);
	put_tensors("model.fp16-00001-of-00001.safetensors", "a", 3);
	put("model.safetensors.index.fp16.json",
	    "{\"weight_map\": {\"a\": \"model.fp16-00001-of-00001.safetensors\"}}");
	assert_int_equal(values("fp16", 1, &e), 3);
	assert_int_equal(values(NULL, 3, &e), 121);
	clean();
	put_tensors("model.bf16-00001-of-00001.safetensors", "a", 4);
	put("model.bf16.safetensors.index.json",
	    "{\"weight_map\": {\"a\": \"model.bf16-00001-of-00001.safetensors\"}}");
	assert_int_equal(values(NULL, 1, &e), 4);
}

/* An index and a single file side by side: diffusers takes the index, transformers the file. */
static void index_or_file(void **state)
{
	struct err e;
	struct st_file f;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t;

	(void)state;
	clean();
	put_tensors("model-00001-of-00001.safetensors", "a", 1);
	put("model.safetensors.index.json",
	    "{\"weight_map\": {\"a\": \"model-00001-of-00001.safetensors\"}}");
	put_tensors("model.safetensors", "a", 2);
	assert_int_equal(values(NULL, 1, &e), 2);
	put_tensors("diffusion_pytorch_model-00001-of-00001.safetensors", "a", 3);
	put("diffusion_pytorch_model.safetensors.index.json",
	    "{\"weight_map\": {\"a\": \"diffusion_pytorch_model-00001-of-00001.safetensors\"}}");
	put_tensors("diffusion_pytorch_model.safetensors", "a", 4);
	assert_int_equal(st_open_model(&f, dir, "diffusion_pytorch_model", NULL, &e), 0);
	assert_int_equal(st_take(&t, &f, "a", DIMS(1), &e), 0);
	assert_true(at_item(t) == 3);
	st_close(&f);
	at_end(s);
}

static void broken(void **state)
{
	(void)state;
	clean();
	refused(NULL, "no model.safetensors");
	put_tensors("model.bf16.safetensors", "a", 1);
	put_tensors("model.fp16.safetensors", "a", 1);
	refused(NULL, "several variants");
	clean();
	put("model.safetensors.index.json", "{}");
	refused(NULL, "weight_map is missing");
	put("model.safetensors.index.json", "{\"weight_map\": {\"a\": 3}}");
	refused(NULL, "no file name");
	put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../x.safetensors\"}}");
	refused(NULL, "not a file of this folder");
	put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\"}}");
	refused(NULL, "x.safetensors");
	put_tensors("x.safetensors", "b", 1);
	refused(NULL, "'b' of a shard is not in the index");
	put_tensors("x.safetensors", "b", 1);
	put("model.safetensors.index.json",
	    "{\"weight_map\": {\"a\": \"x.safetensors\", \"b\": \"x.safetensors\"}}");
	refused(NULL, "tensor 'a' is not in x.safetensors");
	put_tensors("x.safetensors", "ab", 1);
	put_tensors("y.safetensors", "ac", 1);
	put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\", \"b\": "
					    "\"x.safetensors\", \"c\": \"y.safetensors\"}}");
	refused(NULL, "tensor 'a' is in");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single_files),
		cmocka_unit_test(shards),
		cmocka_unit_test(index_or_file),
		cmocka_unit_test(broken),
	};
	struct err e;
	int ret;

	if (!mkdtemp(dir))
		return 1;
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	file_remove_tree(dir, &e);
	return ret;
}
