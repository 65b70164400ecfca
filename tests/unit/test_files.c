/* base/file.h, text.h, json.h and image.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <jpeglib.h>
#include "base/file.h"
#include "base/image.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/image/resize.h"
#include "base/text.h"

static char folder[] = "/tmp/test-files-XXXXXX";

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

static char *at(const char *name)
{
	return file_join(folder, name);
}

/* XXH64's own test vectors, seed 0, and each length around its block sizes stays apart. */
static void test_hash(void **state)
{
	uint64_t seen[100];
	char buf[100];

	(void)state;
	assert_true(file_hash("", 0, 0) == 0xef46db3751d8e999u);
	assert_true(file_hash("a", 1, 0) == 0xd24ec4f1a98c6e5bu);
	assert_true(file_hash("abc", 3, 0) == 0x44bc2cf5ad770999u);
	memset(buf, 'x', sizeof buf);
	for (int i = 0; i < 100; i++) {
		seen[i] = file_hash(buf, (size_t)i, 0);
		for (int k = 0; k < i; k++)
			assert_true(seen[i] != seen[k]);
	}
}

static int count(const char *in)
{
	DIR *d = opendir(in);
	int n = 0;

	for (struct dirent *x; d && (x = readdir(d));)
		n += x->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

static void test_atomic_write(void **state)
{
	char *path = at("a"), *data;
	struct file_writer w;
	struct err e;
	size_t n;

	(void)state;
	assert_int_equal(file_write(path, "one", 3, &e), 0);
	assert_int_equal(file_begin(&w, path, &e), 0);
	fputs("tw", w.f);
	assert_int_equal(file_read(&data, &n, path, &e), 0); /* not yet */
	assert_string_equal(data, "one");
	free(data);
	file_drop(&w);
	assert_int_equal(file_begin(&w, path, &e), 0);
	fputs("two", w.f);
	char *temp = mem_str(w.temp);
	assert_int_equal(file_commit(&w, &e), 0);
	assert_false(file_exists(temp));
	assert_int_equal(file_read(&data, &n, path, &e), 0);
	assert_string_equal(data, "two");
	assert_int_equal(file_write("/no/such/folder/x", "x", 1, &e), -1);
	assert_non_null(strstr(e.msg, "/no/such/folder/x"));
	/* A file that may grow no further: nothing under the final name, no temporary, and the message says
	 * why. */
	struct rlimit was, small;
	char *in = at("full"), *inner = file_join(in, "x"), *big = mem_zero(100000, 1);
	assert_int_equal(file_mkdirs(in, &e), 0);
	assert_int_equal(file_write(inner, "two", 3, &e), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = (struct rlimit) { .rlim_cur = 4096, .rlim_max = was.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(file_write(inner, big, 100000, &e), -1);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_non_null(strstr(e.msg, inner));
	assert_non_null(strstr(e.msg, strerror(EFBIG)));
	assert_int_equal(count(in), 1);
	free(data);
	assert_int_equal(file_read(&data, &n, inner, &e), 0);
	assert_string_equal(data, "two");
	free(in);
	free(inner);
	free(big);
	free(data);
	free(temp);
	free(path);
}

static void test_trees(void **state)
{
	char *deep = at("x/y/z"), *top = at("x"), *file = at("x/y/f");
	struct err e;

	(void)state;
	assert_int_equal(file_mkdirs(deep, &e), 0);
	assert_int_equal(file_mkdirs(deep, &e), 0);
	assert_true(file_is_dir(deep));
	assert_int_equal(file_write(file, "", 0, &e), 0);
	assert_true(file_is_in(top, "y/f") && file_is_in(top, "y") && !file_is_in(top, "f"));
	assert_int_equal(file_sync_tree(top, &e), 0);
	assert_int_equal(file_mkdirs(file, &e), -1); /* a file is in the way */
	assert_int_equal(file_remove_tree(top, &e), 0);
	assert_false(file_exists(top));
	assert_int_equal(file_remove_tree(top, &e), 0);
	free(deep);
	free(top);
	free(file);
}

/* What a kill left of writes goes, for the names that are asked for alone. */
static void test_sweep(void **state)
{
	static const char *const files[] = { "result.json.tmp-12", "config.yaml.tmp-3", "result.json",
					     "my.tmp-12",          "result.tmp-x",      "result.tmp-",
					     "result.tmp-1b",      "config.tmp-7.bak" };
	static const char *const names[] = { "result", "config.yaml", NULL };
	char *dir = at("swept");
	struct err e;

	(void)state;
	assert_int_equal(file_mkdirs(dir, &e), 0);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		char *path = file_join(dir, files[i]);
		assert_int_equal(file_write(path, "", 0, &e), 0);
		free(path);
	}
	file_sweep(dir, names);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		assert_int_equal(file_is_in(dir, files[i]), i > 1);
	file_sweep("/nonexistent", names);
	assert_int_equal(file_remove_tree(dir, &e), 0);
	free(dir);
}

static void test_zstd(void **state)
{
	char *path = at("z.zst"), *data, *raw;
	struct text t = { 0 };
	struct err e;
	size_t n, size;

	(void)state;
	for (int i = 0; i < 100000; i++)
		text_printf(&t, "%u,", (unsigned)i * (unsigned)i % 977);
	assert_int_equal(file_write_zstd(path, t.s, t.n, 3, &e), 0);
	assert_int_equal(file_read_zstd(&data, &n, path, &e), 0);
	assert_int_equal(n, t.n);
	assert_memory_equal(data, t.s, n);
	free(data);
	assert_int_equal(file_read(&raw, &size, path, &e), 0);
	assert_true(size < t.n / 2);
	for (size_t cut = 1; cut < size; cut += size / 7) {
		assert_int_equal(file_write(path, raw, size - cut, &e), 0);
		assert_int_equal(file_read_zstd(&data, &n, path, &e), -1);
		assert_non_null(strstr(e.msg, "damaged"));
	}
	raw[size / 2] ^= 4;
	assert_int_equal(file_write(path, raw, size, &e), 0);
	assert_int_equal(file_read_zstd(&data, &n, path, &e), -1);
	free(raw);
	free(path);
	text_free(&t);
}

static void test_text(void **state)
{
	static const char *const names[] = { "train.max_steps", "train.max_seconds", "optimizer.lr", NULL };
	static const double reals[] = { 0, 1, 0.1, 1e-3, 1.0 / 3, 1e300, -2.5e-7, 123456789.123456789 };
	struct text t = { 0 };

	(void)state;
	assert_string_equal(text_nearest("train.max_stesp", names), "train.max_steps");
	assert_string_equal(text_nearest("optimizer.rl", names), "optimizer.lr");
	assert_null(text_nearest("completely", names));
	assert_int_equal(text_index("optimizer.lr", names), 2);
	assert_int_equal(text_index("optimizer", names), -1);
	for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
		text_real(&t, reals[i]);
		assert_true(strtod(t.s, NULL) == reals[i]);
		text_free(&t);
	}
	text_real(&t, 0.1);
	assert_string_equal(t.s, "0.1");
	text_free(&t);
}

static void test_json(void **state)
{
	char *path = at("j.json");
	struct err e;
	int64_t i;
	json_t *j;

	(void)state;
	assert_int_equal(file_write(path, "{\n\"a\": 1,\n\"b\" 2}", 17, &e), 0);
	assert_null(json_read(path, &e));
	assert_non_null(strstr(e.msg, "j.json:3"));
	assert_int_equal(file_write(path, "{\"a\": 1, \"a\": 2}", 16, &e), 0);
	assert_null(json_read(path, &e));
	j = json_pack("{s:i, s:s}", "n", 3, "s", "text");
	assert_int_equal(json_get_int(&i, j, "n", 0, "here", &e), 0);
	assert_int_equal(i, 3);
	assert_int_equal(json_get_int(&i, j, "none", 9, "here", &e), 0);
	assert_int_equal(i, 9);
	assert_int_equal(json_get_int(&i, j, "s", 0, "here", &e), -1);
	assert_string_equal(e.msg, "here: 's' is not an integer");
	json_decref(j);

	/* integers that 64 bits cannot hold are reals, in strings they are text */
	static const char large[] =
	    "{\"big\": 1000000000000000019884624838656, \"most\": 9223372036854775807, "
	    "\"1000000000000000019884624838656\": \"\\\"-1000000000000000019884624838656\", "
	    "\"list\": [-99999999999999999999,1e300, -9223372036854775808]}";
	j = json_parse(large, sizeof large - 1, "text", &e);
	assert_non_null(j);
	assert_true(json_real_value(json_object_get(j, "big")) == 1e30);
	assert_int_equal(json_integer_value(json_object_get(j, "most")), INT64_MAX);
	assert_string_equal(json_string_value(json_object_get(j, "1000000000000000019884624838656")),
			    "\"-1000000000000000019884624838656");
	assert_true(json_real_value(json_array_get(json_object_get(j, "list"), 0)) == -1e20);
	assert_int_equal(json_integer_value(json_array_get(json_object_get(j, "list"), 2)), INT64_MIN);
	json_decref(j);
	assert_null(json_parse("[1e999]", 7, "text", &e));
	assert_null(json_parse("[99999999999999999999]\0x", 24, "text", &e));
	assert_null(json_parse("[99999999999999999999, \"", 24, "text", &e));

	/* what Python calls numbers is null in a file, and nothing elsewhere */
	static const char python[] =
	    "{\"a\":-Infinity,\n\"Infinity\": [NaN, 1, Infinity], \"s\": \"I am NaN\"}";
	assert_null(json_parse(python, sizeof python - 1, "text", &e));
	assert_int_equal(file_write(path, python, sizeof python - 1, &e), 0);
	assert_non_null(j = json_read(path, &e));
	assert_true(json_is_null(json_object_get(j, "a")));
	assert_true(json_is_null(json_array_get(json_object_get(j, "Infinity"), 2)));
	assert_int_equal(json_integer_value(json_array_get(json_object_get(j, "Infinity"), 1)), 1);
	assert_string_equal(json_string_value(json_object_get(j, "s")), "I am NaN");
	json_decref(j);
	static const char broken[] = "{\"a\": 1,\n\"b\": NaNs}";
	assert_int_equal(file_write(path, broken, sizeof broken - 1, &e), 0);
	assert_null(json_read(path, &e));
	assert_non_null(strstr(e.msg, ":2: not valid JSON"));
	free(path);
}

static void test_images(void **state)
{
	uint8_t rgb[5 * 3 * 3], *two[2] = { rgb, rgb };
	struct image im;
	struct err e;
	char *path = at("p.png"), *raw;
	size_t n;

	(void)state;
	for (size_t i = 0; i < sizeof rgb; i++)
		rgb[i] = (uint8_t)(i * 37);
	assert_int_equal(image_write_png(path, 5, 3, rgb, &e), 0);
	assert_int_equal(image_read(&im, path, &e), 0);
	assert_int_equal(im.w, 5);
	assert_int_equal(im.h, 3);
	assert_memory_equal(im.rgb, rgb, sizeof rgb);
	image_free(&im);
	assert_int_equal(file_read(&raw, &n, path, &e), 0);
	for (size_t cut = 1; cut < n; cut += 5) { /* no prefix crashes or is taken for an image */
		assert_int_equal(file_write(path, raw, n - cut, &e), 0);
		if (!image_read(&im, path, &e))
			image_free(&im);
		else
			assert_non_null(strstr(e.msg, "p.png"));
	}
	im = image_grid((const uint8_t *const *)two, 2, 5, 3, 2, 1, 2);
	assert_int_equal(im.w, 2 * 11 + 1);
	assert_int_equal(im.h, 7 + 1);
	assert_memory_equal(im.rgb + 3 * (im.w + 1), rgb, 3);
	image_free(&im);
	free(raw);
	free(path);
}

/* Numbers are as short as they can be, reals stay reals, and what stands in strings is left alone. */
static void test_json_numbers(void **state)
{
	static const char want[] =
	    "{\"a\":[0.1,-0.0,2.0,1e+300,4.94065645841247e-324,0.30000000000000004,7,-8],"
	    "\"k 0.10000000000000001\":\"\\\"0.10000000000000001\\\\\"}";
	struct err e;
	json_t *j, *again;
	uint64_t h = 1;
	char *s;

	(void)state;
	j = json_pack("{s:[f,f,f,f,f,f,i,i], s:s}", "a", 0.1, -0.0, 2.0, 1e300, 5e-324, 0.1 + 0.2, 7, -8,
		      "k 0.10000000000000001", "\"0.10000000000000001\\");
	s = json_line(j);
	assert_string_equal(s, want);
	again = json_parse(s, strlen(s), "text", &e);
	assert_true(json_equal(j, again));
	json_decref(again);
	json_decref(j);
	free(s);
	j = json_array();
	for (int i = 0; i < 20000; i++) { /* any bits */
		double x;

		h = h * 6364136223846793005u + 1442695040888963407u;
		memcpy(&x, &h, sizeof x);
		if (isfinite(x))
			json_array_append_new(j, json_real(x));
	}
	s = json_text(j, JSON_INDENT(2));
	again = json_parse(s, strlen(s), "text", &e);
	assert_true(json_equal(j, again));
	json_decref(again);
	json_decref(j);
	free(s);
	j = json_object();
	assert_int_equal(json_object_set_new_nocheck(j, "x", json_string_nocheck("\xff")), 0);
	assert_null(json_line(j));
	json_decref(j);
}

/* What JSON cannot hold is null, and comes back as NaN where a number was meant; nothing else does. */
static void test_json_nan(void **state)
{
	const double bad[] = { NAN, -NAN, INFINITY, -INFINITY };
	json_t *o = json_pack("{s:o, s:o}", "x", json_number(0.25), "n", json_null());
	struct text t = { 0 };
	struct err e;
	double v = 0;

	(void)state;
	for (int i = 0; i < 4; i++) {
		json_t *j = json_number(bad[i]);
		assert_true(json_is_null(j));
		json_decref(j);
		json_add_number(&t, bad[i]);
	}
	json_add_number(&t, 0.1);
	assert_string_equal(t.s, "nullnullnullnull0.1");
	text_free(&t);
	assert_int_equal(json_get_number(&v, o, "x", 1, "o", &e), 0);
	assert_true(v == 0.25);
	assert_int_equal(json_get_number(&v, o, "absent", 1, "o", &e), 0);
	assert_true(v == 1);
	assert_int_equal(json_get_number(&v, o, "n", 1, "o", &e), 0);
	assert_true(isnan(v));
	assert_int_equal(json_get_real(&v, o, "n", 1, "o", &e), -1);
	assert_string_equal(e.msg, "o: 'n' is not a number");
	json_object_set_new(o, "x", json_string("1"));
	assert_int_equal(json_get_number(&v, o, "x", 1, "o", &e), -1);
	json_decref(o);
}

/* The size is said without a pixel being decoded, and is refused before memory is asked for. */
static void test_image_sizes(void **state)
{
	uint8_t rgb[4 * 2 * 3] = { 1 }, *data;
	struct image im;
	struct err e;
	size_t n;
	int w, h;

	(void)state;
	assert_int_equal(image_png(&data, &n, 4, 2, rgb, &e), 0);
	assert_int_equal(image_size(&w, &h, data, n, "x", &e), 0);
	assert_true(w == 4 && h == 2);
	size_t head = (size_t)((uint8_t *)memmem(data, n, "IDAT", 4) + 4 - data);
	assert_int_equal(image_size(&w, &h, data, head, "x", &e), 0); /* no pixel is there */
	assert_int_equal(image_decode(&im, data, head, "x", &e), -1);
	static const uint8_t huge[] = { 0, 0, 0xc3, 0x50, 0,    0,    0xc3, 0x50, 8,
					2, 0, 0,    0,    0xc4, 0xcd, 0xaa, 0x9d };
	memcpy(data + 16, huge, sizeof huge); /* 50000 x 50000, with its checksum */
	assert_int_equal(image_size(&w, &h, data, n, "x", &e), -1);
	assert_non_null(strstr(e.msg, "x: an image of 50000 x 50000 pixels is not accepted"));
	assert_int_equal(image_decode(&im, data, n, "x", &e), -1);
	assert_int_equal(image_size(&w, &h, "\xff\xd8\xff", 3, "x", &e), -1);
	assert_int_equal(image_size(&w, &h, "GIF89a", 6, "x", &e), -1);
	assert_int_equal(image_size(&w, &h, NULL, 0, "x", &e), -1);
	free(data);
}

/* libjpeg fills what is missing with grey and calls it a warning. */
static void test_jpeg_cut_short(void **state)
{
	uint8_t rgb[64 * 64 * 3];
	struct jpeg_compress_struct c;
	struct jpeg_error_mgr mgr;
	unsigned char *data = NULL;
	unsigned long n = 0;
	char *path = at("p.jpg");
	struct image im;
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof rgb; i++)
		rgb[i] = (uint8_t)(i * i >> 3);
	c.err = jpeg_std_error(&mgr);
	jpeg_create_compress(&c);
	jpeg_mem_dest(&c, &data, &n);
	c.image_width = c.image_height = 64;
	c.input_components = 3;
	c.in_color_space = JCS_RGB;
	jpeg_set_defaults(&c);
	jpeg_start_compress(&c, TRUE);
	while (c.next_scanline < 64) {
		JSAMPROW row = rgb + 64 * 3 * c.next_scanline;
		jpeg_write_scanlines(&c, &row, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	assert_int_equal(file_write(path, data, n, &e), 0);
	assert_int_equal(image_read(&im, path, &e), 0);
	assert_int_equal(im.w, 64);
	image_free(&im);
	for (size_t cut = 3; cut < n; cut += 97) {
		assert_int_equal(file_write(path, data, n - cut, &e), 0);
		assert_int_equal(image_read(&im, path, &e), -1);
		assert_non_null(strstr(e.msg, "p.jpg"));
	}
	free(data);
	free(path);
}

/* A link to nowhere is not written through, and does not stop a checkpoint. */
static void test_sync_of_links(void **state)
{
	char *dir = at("links"), *link = file_join(dir, "latest");
	struct err e;

	(void)state;
	assert_int_equal(file_mkdirs(dir, &e), 0);
	assert_int_equal(symlink("nowhere", link), 0);
	assert_int_equal(file_sync_tree(dir, &e), 0);
	free(link);
	free(dir);
}

/* A window is the whole image's part; and of one that would have 10^12 pixels it costs what it has itself:
 * white above the middle and black below stay so. */
static void test_resize_window(void **state)
{
	enum { W = 37, H = 53, TALL = 20000000, S = 224 };
	uint8_t *small = mem_alloc((size_t)W * H * 3), *tall = mem_zero((size_t)TALL, 3), *whole, *part;

	(void)state;
	for (int i = 0; i < W * H * 3; i++)
		small[i] = (uint8_t)(i * 7919 >> 3);
	whole = resize_bicubic(small, W, H, 90, 40);
	part = resize_bicubic_window(
	    small, W, H,
	    &(struct resize_window) { .to_w = 90, .to_h = 40, .x = 21, .y = 3, .w = 50, .h = 30 });
	for (int y = 0; y < 30; y++)
		assert_memory_equal(part + (size_t)y * 150, whole + ((size_t)(y + 3) * 90 + 21) * 3, 150);
	free(whole);
	free(part);
	memset(tall, 255, (size_t)TALL / 2 * 3);
	int64_t long_side = (int64_t)TALL * S;
	part = resize_bicubic_window(
	    tall, 1, TALL,
	    &(struct resize_window) {
		.to_w = S, .to_h = long_side, .y = long_side / 2 - 512, .w = S, .h = 1024 });
	for (int x = 0; x < 3 * S; x++)
		assert_true(part[x] == 255 && part[(size_t)1023 * 3 * S + (size_t)x] == 0);
	free(small);
	free(tall);
	free(part);
}

static void *read_pipe(void *path)
{
	static char got[64];
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	got[fread(got, 1, sizeof got - 1, f)] = '\0';
	fclose(f);
	return got;
}

/* Links are followed, and stay; devices and pipes are written to, and stay. */
static void test_in_place(void **state)
{
	char *in = at("links"), *target = file_join(in, "target"), *link = file_join(in, "link"),
	     *second = file_join(in, "second"), *pipe = file_join(in, "pipe"), *data;
	struct stat st;
	struct err e;
	pthread_t reader;
	void *got;
	size_t n;

	(void)state;
	assert_int_equal(file_mkdirs(in, &e), 0);
	assert_int_equal(symlink("target", link), 0); /* which is not there yet */
	assert_int_equal(symlink(link, second), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(file_write(i ? second : link, i ? "two" : "one", 3, &e), 0);
		assert_int_equal(file_read(&data, &n, target, &e), 0);
		assert_string_equal(data, i ? "two" : "one");
		free(data);
		assert_int_equal(lstat(link, &st), 0);
		assert_true(S_ISLNK(st.st_mode));
	}
	assert_int_equal(mkfifo(pipe, 0600), 0);
	assert_int_equal(pthread_create(&reader, NULL, read_pipe, pipe), 0);
	assert_int_equal(file_write(pipe, "through", 7, &e), 0);
	assert_int_equal(pthread_join(reader, &got), 0);
	assert_string_equal(got, "through");
	assert_int_equal(lstat(pipe, &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	assert_int_equal(count(in), 4);
	if (file_exists("/dev/full")) {
		assert_int_equal(file_write("/dev/null", "x", 1, &e), 0);
		assert_int_equal(file_write("/dev/full", "x", 1, &e), -1);
		assert_non_null(strstr(e.msg, "/dev/full: No space left on device; free some space"));
		assert_int_equal(lstat("/dev/full", &st), 0);
		assert_true(S_ISCHR(st.st_mode));
	}
	free(in);
	free(target);
	free(link);
	free(second);
	free(pipe);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hash),          cmocka_unit_test(test_atomic_write),
		cmocka_unit_test(test_trees),         cmocka_unit_test(test_zstd),
		cmocka_unit_test(test_sweep),         cmocka_unit_test(test_in_place),
		cmocka_unit_test(test_text),          cmocka_unit_test(test_json),
		cmocka_unit_test(test_images),        cmocka_unit_test(test_jpeg_cut_short),
		cmocka_unit_test(test_sync_of_links), cmocka_unit_test(test_json_numbers),
		cmocka_unit_test(test_image_sizes),   cmocka_unit_test(test_json_nan),
		cmocka_unit_test(test_resize_window),
	};
	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
