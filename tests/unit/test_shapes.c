/*
 * The shapes world against its own detector: what is drawn is found, what is wrong is not right, noise hardly
 * matters. Also the prompt files: numbers, disjointness, words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/prompts.h"
#include "data/shapes/shapes.h"
#include "rewards/geneval/detector.h"

enum { SEED = 20, TAGS = 6, SCENES = 1500, SIDE = 24, BYTES = SIDE * SIDE * 3 };

static const struct shapes_conf world = { 3, 8, 2.7, 3.15, 0.6, 0.02, 0.10, 3 };
static const char *const tag_names[TAGS] = { "single_object", "two_object", "counting",
					     "colors",        "position",   "color_attr" };

struct fixture {
	struct prompts train, test;
	struct detector detector;
};

static int setup(void **state)
{
	char dir[] = "/tmp/test_shapes_XXXXXX", train[64], validation[64], test[64];
	struct fixture *f = mem_zero(1, sizeof *f);
	struct err e;

	if (!mkdtemp(dir))
		return -1;
	snprintf(train, sizeof train, "%s/train.jsonl", dir);
	snprintf(validation, sizeof validation, "%s/validation.jsonl", dir);
	snprintf(test, sizeof test, "%s/test.jsonl", dir);
	if (shapes_write_prompts(&world, dir, &e) || prompts_read(&f->train, train, &e) ||
	    prompts_read(&f->test, test, &e) || detector_blobs.open(&f->detector, NULL, &e)) {
		print_error("%s\n", e.msg);
		return -1;
	}
	unlink(train);
	unlink(validation);
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
	detector_blobs.close(&f->detector);
	free(f);
	return 0;
}

/* The k-th prompt with a tag, of both files, round and round. */
static const struct prompt *prompt_of(const struct fixture *f, const char *tag, int k)
{
	int64_t n = f->train.n + f->test.n, seen = 0;

	for (;; k -= (int)seen, seen = 0) {
		for (int64_t i = 0; i < n; i++) {
			const struct prompt *p = i < f->train.n ? &f->train.v[i] : &f->test.v[i - f->train.n];
			if (!strcmp(p->tag, tag) && seen++ == k)
				return p;
		}
		assert_true(seen > 0);
	}
}

static struct detection detect(const struct fixture *f, const uint8_t *rgb, int w, int h)
{
	struct detector d = f->detector;
	struct reward_item item = { .rgb = rgb, .w = w, .h = h };
	struct detection found = { 0 };
	json_t *no_meta = NULL;
	struct err e;

	assert_int_equal(detector_blobs.detect(&d, &item, &no_meta, 1, &found, &e), 0);
	return found;
}

static struct geneval_result judge(const struct fixture *f, const char *meta, const uint8_t *rgb, int side)
{
	struct geneval_result r = { 0 };
	struct err e = { "" };
	json_t *o = json_parse(meta, strlen(meta), "meta", &e);
	struct detection found = detect(f, rgb, side, side);

	if (!o || geneval_judge(&r, o, found.v, found.n, false, &e))
		fail_msg("%s", e.msg);
	json_decref(o);
	free(found.v);
	return r;
}

static void draw(struct shapes_scene *s, const struct shapes_conf *c, const char *meta, struct rng *r)
{
	struct err e;

	if (shapes_scene(s, c, meta, r, &e))
		fail_msg("%s: %s", meta, e.msg);
}

static void add_noise(uint8_t *rgb, int n, double std, struct rng *r)
{
	for (int i = 0; i < n; i++) {
		double v = rgb[i] + 255 * std * rng_normal(r);
		rgb[i] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5);
	}
}

static double strict_of_tag(const struct fixture *f, int tag, double noise)
{
	int strict = 0;

	for (int k = 0; k < SCENES; k++) {
		const struct prompt *p = prompt_of(f, tag_names[tag], k);
		struct rng r = rng_make(SEED, RNG_SCENE, (uint64_t)tag, (uint64_t)k);
		struct shapes_scene s;
		uint8_t rgb[BYTES];
		draw(&s, &world, p->meta, &r);
		shapes_render(&s, &world, rgb);
		if (noise > 0)
			add_noise(rgb, BYTES, noise, &r);
		strict += judge(f, p->meta, rgb, SIDE).strict;
	}
	return strict / (double)SCENES;
}

static void truth_is_right(void **state)
{
	for (int t = 0; t < TAGS; t++) {
		double strict = strict_of_tag(*state, t, 0);
		print_message("%-14s strict %.4f\n", tag_names[t], strict);
		assert_true(strict >= 0.99);
	}
}

static void noise_costs_little(void **state)
{
	for (int t = 0; t < TAGS; t++) {
		double strict = strict_of_tag(*state, t, 0.15);
		print_message("%-14s strict %.4f with noise 0.15\n", tag_names[t], strict);
		assert_true(strict > 0.98);
	}
}

/* ---- images that do not show what the prompt says ---- */

static void other_shape(struct shapes_object *o, struct rng *r)
{
	o->shape = (enum shape)((o->shape + 1 + rng_below(r, SHAPES - 1)) % SHAPES);
}

static void other_color(struct shapes_object *o, struct rng *r)
{
	o->color = (enum color)((o->color + 1 + rng_below(r, COLORS - 1)) % COLORS);
}

static bool taken(const struct shapes_scene *s, int cell)
{
	for (int i = 0; i < s->n; i++)
		if (s->object[i].cell == cell)
			return true;
	return false;
}

/* Another object like the first, in the middle of a free cell. */
static void one_more(struct shapes_scene *s, struct rng *r)
{
	struct shapes_object o = s->object[0];

	while (taken(s, o.cell))
		o.cell = (int)rng_below(r, 9);
	o.cx = 8 * (o.cell % 3) + 4;
	o.cy = 8 * (o.cell / 3) + 4;
	s->object[s->n++] = o;
}

/* The image mirrored along the axis of the relation. */
static void turn_round(struct shapes_scene *s, const char *prompt)
{
	bool level = strstr(prompt, "left of") || strstr(prompt, "right of");

	for (int i = 0; i < s->n; i++) {
		if (level)
			s->object[i].cx = SIDE - s->object[i].cx;
		else
			s->object[i].cy = SIDE - s->object[i].cy;
	}
}

enum fault { MISSING, SURPLUS, WRONG_SHAPE, WRONG_COLOR, WRONG_RELATION, FAULTS };

/* Spoils a scene; false when the prompt does not mind this fault. */
static bool spoil(struct shapes_scene *s, enum fault fault, const struct prompt *p, struct rng *r)
{
	struct shapes_object *any = &s->object[rng_below(r, (uint32_t)s->n)];

	switch (fault) {
	case MISSING:
		*any = s->object[--s->n];
		return true;
	case SURPLUS:
		one_more(s, r);
		return true;
	case WRONG_SHAPE:
		other_shape(any, r);
		return true;
	case WRONG_COLOR:
		other_color(any, r);
		return strstr(p->meta, "\"color\"") != NULL;
	default:
		turn_round(s, p->text);
		return strstr(p->meta, "\"position\"") != NULL;
	}
}

static void wrong_is_wrong(void **state)
{
	struct fixture *f = *state;
	int tried[FAULTS] = { 0 };

	for (int t = 0; t < TAGS; t++) {
		for (int k = 0; k < SCENES; k++) {
			const struct prompt *p = prompt_of(f, tag_names[t], k);
			struct rng r = rng_make(SEED + 1, RNG_SCENE, (uint64_t)t, (uint64_t)k);
			enum fault fault = (enum fault)(k % FAULTS);
			struct shapes_scene s;
			uint8_t rgb[BYTES];
			draw(&s, &world, p->meta, &r);
			if (!spoil(&s, fault, p, &r))
				continue;
			shapes_render(&s, &world, rgb);
			struct geneval_result v = judge(f, p->meta, rgb, SIDE);
			if (v.strict || v.reward >= 1 || !v.why[0])
				fail_msg("'%s' with fault %d is taken for right", p->text, fault);
			tried[fault]++;
		}
	}
	for (int i = 0; i < FAULTS; i++)
		assert_true(tried[i] >= SCENES / FAULTS);
}

static void check_object(const struct geneval_object *o, const struct shapes_object *truth)
{
	double rx = shapes_extent(truth->shape, 0) * truth->half,
	       ry = shapes_extent(truth->shape, 1) * truth->half;
	const double box[4] = { truth->cx - rx, truth->cy - ry, truth->cx + rx, truth->cy + ry };

	assert_string_equal(o->class_name, shape_names[truth->shape]);
	assert_string_equal(o->color, color_names[truth->color]);
	for (int i = 0; i < 4; i++)
		assert_true(fabs(o->box[i] - box[i]) < 0.5);
}

/* Two objects of half-size `half` pushed together as far as their cells allow. */
static struct shapes_scene close_pair(int a, int b, double half, bool level)
{
	double near = 8 - world.margin - half, far = 8 + world.margin + half;
	struct shapes_object one = {
		(enum shape)(a % SHAPES), (enum color)(a / SHAPES), 0, near, near, half
	};
	struct shapes_object two = {
		(enum shape)(b % SHAPES), (enum color)(b / SHAPES), 0, near, near, half
	};

	*(level ? &two.cx : &two.cy) = far;
	return (struct shapes_scene) { 2, world.dark_max, { one, two } };
}

static void neighbours_stay_apart(void **state)
{
	enum { KINDS = SHAPES * COLORS };
	struct fixture *f = *state;

	for (int k = 0; k < 4 * KINDS * KINDS; k++) {
		struct shapes_scene s =
		    close_pair(k / 4 % KINDS, k / 4 / KINDS, k & 2 ? world.half_max : world.half_min, k & 1);
		uint8_t rgb[BYTES];
		shapes_render(&s, &world, rgb);
		struct detection found = detect(f, rgb, SIDE, SIDE);
		struct geneval_object *obj = found.v;
		assert_int_equal(found.n, 2);
		bool swapped = obj[0].box[0] + obj[0].box[1] > obj[1].box[0] + obj[1].box[1];
		check_object(&obj[swapped], &s.object[0]);
		check_object(&obj[!swapped], &s.object[1]);
		free(obj);
	}
}

static int objects_in(const struct fixture *f, const uint8_t *rgb, int w, int h)
{
	struct detection found = detect(f, rgb, w, h);

	assert_int_equal(found.why[0], '\0');
	for (int i = 1; i < found.n; i++)
		assert_true(found.v[i - 1].score >= found.v[i].score);
	free(found.v);
	return found.n;
}

static void odd_images(void **state)
{
	enum { W = 301, H = 200 };
	struct fixture *f = *state;
	uint8_t *rgb = mem_zero(3 * W * H, 1);
	struct rng r = rng_make(SEED, RNG_USER, 0, 0);

	assert_int_equal(objects_in(f, rgb, W, H), 0); /* black */
	memset(rgb, 255, 3 * W * H);
	assert_int_equal(objects_in(f, rgb, W, H), 0); /* one blob, far too large */
	assert_int_equal(objects_in(f, rgb, 1, 1), 0);
	assert_int_equal(objects_in(f, rgb, W, 1), 0);
	assert_int_equal(objects_in(f, rgb, 1, H), 0);
	memset(rgb, 128, 3 * W * H);
	assert_int_equal(objects_in(f, rgb, W, H), 0);
	for (int i = 0; i < W * H; i++) /* a chessboard of single pixels: specks */
		memset(rgb + 3 * i, (i % W + i / W) % 2 ? 255 : 0, 3);
	assert_int_equal(objects_in(f, rgb, W, H), 0);
	for (int k = 0; k < 20; k++) { /* noise of every strength: anything but a crash */
		memset(rgb, 20, 3 * W * H);
		add_noise(rgb, 3 * W * H, 0.05 * k, &r);
		(void)objects_in(f, rgb, W, H);
	}
	struct detection none = detect(f, rgb, 0, 5);
	assert_non_null(strstr(none.why, "0 x 5 pixels"));
	assert_null(none.v);
	free(rgb);
}

/* Fills w x h pixels from (x, y) with white. */
static void fill(uint8_t *rgb, int x, int y, int w, int h)
{
	for (int j = y; j < y + h; j++)
		memset(rgb + 3 * (j * SIDE + x), 242, 3 * (size_t)w);
}

/* Blobs that are no shape: a bar, a stair, two objects grown together. */
static void shapeless_is_no_object(void **state)
{
	uint8_t rgb[BYTES];

	for (int k = 0; k < 4; k++) {
		memset(rgb, 15, sizeof rgb);
		if (k == 0)
			fill(rgb, 3, 8, 14, 3);
		for (int i = 0; k == 1 && i < 8; i++)
			fill(rgb, 4 + 2 * i, 4 + 2 * i, 3, 3);
		for (int i = 0; k == 2 && i < 2; i++)
			fill(rgb, 3 + 6 * i, 3 + 5 * i, 7, 6);
		for (int i = 0; k == 3 && i < 2; i++) /* a dumb-bell */
			fill(rgb, 1 + 15 * i, 9, 6, 6);
		if (k == 3)
			fill(rgb, 1, 11, 20, 2);
		assert_int_equal(objects_in(*state, rgb, SIDE, SIDE), 0);
	}
	memset(rgb, 15, sizeof rgb);
	fill(rgb, 9, 9, 6, 6); /* while this is one */
	assert_int_equal(objects_in(*state, rgb, SIDE, SIDE), 1);
}

/* The same detector sees other worlds: larger cells, more of them. */
static void larger_world(void **state)
{
	const struct shapes_conf big = { 4, 16, 4, 6.5, 1, 0, 0.2, 6 };
	uint8_t rgb[64 * 64 * 3];

	for (int k = 0; k < 300; k++) {
		char meta[256];
		struct shapes_scene s;
		struct rng r = rng_make(SEED, RNG_SCENE, 77, (uint64_t)k);
		snprintf(meta, sizeof meta,
			 "{\"include\": [{\"class\": \"%s\", \"count\": %d}, {\"class\": \"%s\", \"count\": "
			 "1, \"color\": "
			 "\"%s\"}]}",
			 shape_names[k % SHAPES], 1 + k % 6, shape_names[(k + 1) % SHAPES],
			 color_names[k / 4 % 6]);
		draw(&s, &big, meta, &r);
		shapes_render(&s, &big, rgb);
		if (!judge(*state, meta, rgb, 64).strict)
			fail_msg("%s", meta);
	}
}

static void speed(void **state)
{
	enum { IMAGES = 400 };
	struct fixture *f = *state;
	uint8_t *rgb = mem_alloc((size_t)IMAGES * BYTES);

	for (int k = 0; k < IMAGES; k++) {
		struct rng r = rng_make(SEED, RNG_SCENE, 88, (uint64_t)k);
		struct shapes_scene s;
		draw(&s, &world, "{\"include\": [{\"class\": \"cross\", \"count\": 3}]}", &r);
		shapes_render(&s, &world, rgb + (size_t)k * BYTES);
	}
	double start = clock_now();
	for (int k = 0; k < IMAGES; k++)
		assert_int_equal(objects_in(f, rgb + (size_t)k * BYTES, SIDE, SIDE), 3);
	print_message("%.1f us an image of three objects\n", 1e6 * (clock_now() - start) / IMAGES);
	free(rgb);
}

/* ---- scenes ---- */

static int objects_named(const char *text)
{
	bool two = strstr(text, "two ") || strstr(text, " and ") || strstr(text, "left of") ||
		   strstr(text, "right of") || strstr(text, "above") || strstr(text, "below");

	return strstr(text, "three ") ? 3 : two ? 2 : 1;
}

static void scenes_obey(void **state)
{
	struct fixture *f = *state;

	for (int64_t i = 0; i < f->train.n; i++) {
		const char *text = f->train.v[i].text;
		for (int k = 0; k < 20; k++) {
			struct rng r = rng_make(SEED, RNG_SCENE, (uint64_t)i, (uint64_t)k);
			struct shapes_scene s;
			bool taken[9] = { false };
			draw(&s, &world, f->train.v[i].meta, &r);
			assert_true(s.dark >= 0.02 && s.dark < 0.10);
			assert_int_equal(s.n, objects_named(text));
			for (int j = 0; j < s.n; j++) {
				const struct shapes_object *o = &s.object[j];
				double x = 8 * (o->cell % 3), y = 8 * (o->cell / 3);
				assert_false(taken[o->cell]);
				taken[o->cell] = true;
				assert_true(o->half >= 2.7 && o->half <= 3.15);
				assert_true(o->cx - o->half >= x + 0.599 && o->cx + o->half <= x + 7.401);
				assert_true(o->cy - o->half >= y + 0.599 && o->cy + o->half <= y + 7.401);
				assert_non_null(strstr(text, shape_names[o->shape]));
			}
			if (strstr(text, "left of")) /* object 0 is what A stands left of */
				assert_true(s.object[1].cx < s.object[0].cx - 3);
			if (strstr(text, "below"))
				assert_true(s.object[1].cy > s.object[0].cy + 3);
		}
	}
}

static void refuse(const struct shapes_conf *c, const char *meta, const char *said)
{
	struct rng r = rng_make(SEED, RNG_SCENE, 0, 0);
	struct shapes_scene s;
	struct err e = { "" };

	if (!shapes_scene(&s, c, meta, &r, &e) || !strstr(e.msg, said))
		fail_msg("%s: '%s', wanted '%s'", meta, e.msg, said);
}

static void impossible_scenes(void **state)
{
	struct shapes_conf bad = world;

	(void)state;
	refuse(&world, "{", "JSON");
	refuse(&world, "{}", "include: wanted 1 to 8");
	refuse(&world, "{\"include\": [{\"class\": \"circel\"}]}",
	       "no class 'circel' (did you mean 'circle'?)");
	refuse(&world, "{\"include\": [{\"class\": \"circle\", \"color\": \"pink\"}]}", "no color 'pink'");
	refuse(&world, "{\"include\": [{\"class\": \"circle\", \"count\": 0}]}", "count = 0");
	refuse(&world, "{\"include\": [{\"class\": \"circle\", \"count\": 10}]}",
	       "do not fit a grid of 3 x 3");
	refuse(&world, "{\"include\": [{\"class\": \"circle\"}, {\"class\": \"circle\"}]}", "already");
	refuse(&world,
	       "{\"include\": [{\"class\": \"circle\", \"count\": 2}], \"exclude\": [{\"class\": \"circle\", "
	       "\"count\": 2}]}",
	       "forbids");
	refuse(&world, "{\"include\": [{\"class\": \"circle\", \"position\": [\"above\", 0]}]}",
	       "earlier clause");
	refuse(
	    &world,
	    "{\"include\": [{\"class\": \"circle\"}, {\"class\": \"cross\", \"position\": [\"abov\", 0]}]}",
	    "did you mean 'above'");
	/* Four crosses left of four circles leave one column at most. */
	refuse(&world,
	       "{\"include\": [{\"class\": \"circle\", \"count\": 4}, {\"class\": \"cross\", \"count\": 5, "
	       "\"position\": [\"left of\", 0]}]}",
	       "no scene has these positions");
	bad.half_max = 3.6;
	refuse(&bad, "{}", "does not fit half a cell");
	bad = world, bad.half_min = 3.2;
	refuse(&bad, "{}", "above half_max");
	bad = world, bad.dark_min = 0.3;
	refuse(&bad, "{}", "above dark_max");
	bad = world, bad.grid = 2, bad.count_max = 5;
	refuse(&bad, "{}", "no room");
}

/* Areas known from geometry; half a pixel's shift moves the centroid by half a pixel. */
static void coverage_is_geometry(void **state)
{
	static const double area[SHAPES] = { 3.14159265, 4 * 0.92 * 0.92,
					     2,          8 * 0.36 - 4 * 0.36 * 0.36,
					     2,          3.14159265 * (1 - 0.38 * 0.38),
					     2,          2 };

	(void)state;
	for (int s = 0; s < SHAPES; s++) {
		for (int k = 0; k < 2; k++) {
			float cover[60 * 50];
			double sum = 0, x = 0, y = 0;
			shapes_coverage((enum shape)s, 30 + 0.5 * k, 25, 20, 60, 50, cover);
			for (int i = 0; i < 60 * 50; i++) {
				assert_true(cover[i] >= 0 && cover[i] <= 1);
				sum += (double)cover[i];
				x += (double)cover[i] * (i % 60 + 0.5);
				y += (double)cover[i] * (i / 60 + 0.5);
			}
			assert_true(fabs(shapes_area((enum shape)s) - area[s]) < 1e-6);
			assert_true(fabs(sum / (400 * area[s]) - 1) < 0.02);
			assert_true(fabs(x / sum - 30 - 0.5 * k) < 0.05);
			assert_true(fabs(y / sum - 25 -
					 20 / 3. * ((s == SHAPE_TRIANGLE) - (s == SHAPE_WEDGE))) < 0.1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(truth_is_right),       cmocka_unit_test(noise_costs_little),
		cmocka_unit_test(wrong_is_wrong),       cmocka_unit_test(neighbours_stay_apart),
		cmocka_unit_test(odd_images),           cmocka_unit_test(shapeless_is_no_object),
		cmocka_unit_test(larger_world),         cmocka_unit_test(speed),
		cmocka_unit_test(scenes_obey),          cmocka_unit_test(impossible_scenes),
		cmocka_unit_test(coverage_is_geometry),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
