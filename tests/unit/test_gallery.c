#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "base/mem.h"
#include "data/gallery.h"

static char top[] = "/tmp/test_gallery_XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(top) ? 0 : -1;
}

static int teardown(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(top, &e);
}

/* A file of this folder of the test's. */
static void put(const char *name, const char *text)
{
	char *path = file_join(top, name), *dir = file_dir(path);
	struct err e;

	assert_int_equal(file_mkdirs(dir, &e), 0);
	assert_int_equal(file_write(path, text, strlen(text), &e), 0);
	free(dir);
	free(path);
}

static int open_one(struct gallery *g, const char *name, const char *prompts, struct err *e)
{
	char *path = file_join(top, name), *file = prompts ? file_join(top, prompts) : NULL;
	int ret = gallery_open(g, (const char *const[]) { path }, 1, file, e);

	free(file);
	free(path);
	return ret;
}

static void expect(const struct gallery *g, int64_t i, const char *path, const char *prompt, const char *tag)
{
	char *want = file_join(top, path);

	assert_string_equal(g->image[i].path, want);
	assert_string_equal(g->image[i].prompt->text, prompt);
	assert_string_equal(g->image[i].prompt->tag, tag);
	free(want);
}

/* In the order of a reader: 2 before 10, folders where their names are; what is no image is passed by. */
static void order(void **state)
{
	struct gallery g;
	struct err e = { "" };

	(void)state;
	put("order/10.png", "");
	put("order/2.JPG", "");
	put("order/3/b.jpeg", "");
	put("order/3/a.png", "");
	put("order/.hidden.png", "");
	put("order/.cache/x.png", "");
	put("order/notes.txt", "");
	put("order/png", "");
	put("one.txt", "a cat\n");
	assert_int_equal(open_one(&g, "order", "one.txt", &e), 0);
	assert_int_equal(g.n, 4);
	expect(&g, 0, "order/2.JPG", "a cat", "");
	expect(&g, 1, "order/3/a.png", "a cat", "");
	expect(&g, 2, "order/3/b.jpeg", "a cat", "");
	expect(&g, 3, "order/10.png", "a cat", "");
	gallery_close(&g);
	put("four.txt", "a\nb\nc\nd\n");
	assert_int_equal(open_one(&g, "order", "four.txt", &e), 0);
	expect(&g, 3, "order/10.png", "d", "");
	gallery_close(&g);
	put("three.txt", "a\nb\nc\n");
	assert_int_equal(open_one(&g, "order", "three.txt", &e), -1);
	assert_non_null(strstr(e.msg, "4 images but 3 prompts"));
}

static void beside(void **state)
{
	struct gallery g;
	struct err e = { "" };

	(void)state;
	put("beside/a.b.png", "");
	put("beside/a.b.txt", "a dog\n");
	put("beside/c.png", "");
	put("beside/c.jsonl", "{\"prompt\": \"two cats\", \"tag\": \"counting\"}");
	assert_int_equal(open_one(&g, "beside", NULL, &e), 0);
	assert_int_equal(g.n, 2);
	expect(&g, 0, "beside/a.b.png", "a dog", "");
	expect(&g, 1, "beside/c.png", "two cats", "counting");
	gallery_close(&g);
	put("beside/d.png", "");
	assert_int_equal(open_one(&g, "beside", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "d.png: no prompt beside it"));
	put("beside/d.txt", "a\nb\n");
	assert_int_equal(open_one(&g, "beside", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "d.txt: 2 prompts"));
}

/* The folders that GenEval's generation scripts write. */
static void genevals_folders(void **state)
{
	static const char meta[] =
	    "{\"tag\": \"two_object\", \"include\": [], \"prompt\": \"a bench and a cow\"}";
	struct gallery g;
	struct err e = { "" };

	(void)state;
	put("out/00000/metadata.jsonl", "{\"tag\": \"colors\", \"prompt\": \"a red bus\"}");
	put("out/00000/samples/0000.png", "");
	put("out/00000/samples/0001.png", "");
	put("out/00000/grid.png", "");
	put("out/00001/metadata.jsonl", meta);
	put("out/00001/samples/0000.png", "");
	assert_int_equal(open_one(&g, "out", NULL, &e), 0);
	assert_int_equal(g.n, 3);
	expect(&g, 0, "out/00000/samples/0000.png", "a red bus", "colors");
	expect(&g, 1, "out/00000/samples/0001.png", "a red bus", "colors");
	expect(&g, 2, "out/00001/samples/0000.png", "a bench and a cow", "two_object");
	assert_ptr_equal(g.image[0].prompt, g.image[1].prompt); /* read once */
	assert_non_null(strstr(g.image[2].prompt->meta, "include"));
	gallery_close(&g);
}

static void mistakes(void **state)
{
	struct gallery g;
	struct err e = { "" };
	char *loop = file_join(top, "loop/again/above"), *above = file_join(top, "loop");

	(void)state;
	put("empty/readme.txt", "x");
	assert_int_equal(open_one(&g, "empty", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "no .png, .jpg or .jpeg file"));
	assert_int_equal(open_one(&g, "not/there", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "no such file or folder"));
	put("loop/again/a.png", "");
	put("loop/again/a.txt", "x");
	assert_int_equal(symlink(above, loop), 0);
	assert_int_equal(open_one(&g, "loop", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "above: a link to a folder above it"));
	free(loop);
	free(above);
	/* an image that is not there is no smaller folder */
	loop = file_join(top, "links/b.png");
	put("links/a.png", "");
	put("links/a.txt", "x");
	assert_int_equal(symlink("nowhere.png", loop), 0);
	assert_int_equal(open_one(&g, "links", NULL, &e), -1);
	assert_non_null(strstr(e.msg, "links/b.png: cannot be read: a link to nowhere"));
	free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),
		cmocka_unit_test(beside),
		cmocka_unit_test(genevals_folders),
		cmocka_unit_test(mistakes),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
