/* The rule engine against cases worked out by hand, and the metadata it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "rewards/geneval/detector.h"

#define TOLERANCE 1e-12

/* A box of half-size 3 around (x, y). */
static struct geneval_object at(const char *class_name, const char *color, double x, double y)
{
	return (struct geneval_object) { class_name, color, { x - 3, y - 3, x + 3, y + 3 }, 0.9, 0 };
}

struct expected {
	double ours, reference;
	bool strict, correct;
};

static void judge(const char *meta, const struct geneval_object *obj, int n, struct expected want)
{
	struct err e = { "" };
	struct geneval_result r;
	json_t *o = json_parse(meta, strlen(meta), "meta", &e);

	assert_non_null(o);
	for (int reference = 0; reference < 2; reference++) {
		assert_int_equal(geneval_judge(&r, o, obj, n, reference, &e), 0);
		if (fabs(r.reward - (reference ? want.reference : want.ours)) > TOLERANCE)
			fail_msg("%s, %d objects, reference %d: reward %g", meta, n, reference, r.reward);
		assert_int_equal(r.strict, want.strict);
		assert_int_equal(r.correct, want.correct);
		assert_int_equal(r.why[0] == '\0', want.strict);
	}
	json_decref(o);
}

static void single_object(void **state)
{
	static const char meta[] =
	    "{\"tag\": \"single_object\", \"include\": [{\"class\": \"circle\", \"count\": 1}]}";
	struct geneval_object obj[16];

	(void)state;
	for (int i = 0; i < 16; i++)
		obj[i] = at("circle", "red", 10 * i, 0);
	judge(meta, obj, 0, (struct expected) { 0, 0, false, false });
	judge(meta, obj, 1, (struct expected) { 1, 1, true, true });
	judge(meta, obj, 2, (struct expected) { 0, 0, false, true });
	/* The fault that inflates the reference's spread: 16 found for 1 wanted. */
	judge(meta, obj, 16, (struct expected) { 0, -14, false, true });
	obj[1] = at("square", "red", 9, 9);
	judge(meta, obj, 2, (struct expected) { 1, 1, true, true });
	judge(meta, obj + 1, 1, (struct expected) { 0, 0, false, false });
}

static void two_object(void **state)
{
	static const char meta[] =
	    "{\"tag\": \"two_object\", \"include\": [{\"class\": \"circle\", \"count\": 1}, "
	    "{\"class\": \"cross\", \"count\": 1}]}";
	const struct geneval_object obj[] = { at("circle", "red", 0, 0), at("cross", NULL, 10, 0),
					      at("cross", "blue", 20, 0), at("cross", "blue", 30, 0) };

	(void)state;
	judge(meta, obj, 1, (struct expected) { 0.5, 0.5, false, false });
	judge(meta, obj, 2, (struct expected) { 1, 1, true, true });
	judge(meta, obj, 3, (struct expected) { 0.5, 0.5, false, true });
	judge(meta, obj, 4, (struct expected) { 0.5, 0, false, true });
}

static void counting(void **state)
{
	static const char plain[] = "{\"include\": [{\"class\": \"square\", \"count\": 3}], "
				    "\"exclude\": [{\"class\": \"square\", \"count\": 4}]}";
	static const char red[] =
	    "{\"include\": [{\"class\": \"square\", \"count\": 3, \"color\": \"red\"}], "
	    "\"exclude\": [{\"class\": \"square\", \"count\": 4}]}";
	struct geneval_object obj[8];

	(void)state;
	for (int i = 0; i < 8; i++)
		obj[i] = at("square", "red", 10 * i, 0);
	judge(plain, obj, 0, (struct expected) { 0, 0, false, false });
	judge(plain, obj, 2, (struct expected) { 2 / 3., 2 / 3., false, false });
	judge(plain, obj, 3, (struct expected) { 1, 1, true, true });
	judge(plain, obj, 4,
	      (struct expected) { 2 / 3., 2 / 3., false, false }); /* exclude: not even correct */
	judge(plain, obj, 8, (struct expected) { 0, -2 / 3., false, false });
	judge(red, obj, 3, (struct expected) { 1, 1, true, true });
	judge(red, obj, 2, (struct expected) { 1 / 3., 1 / 3., false, false });
	obj[1].color = "blue";
	judge(red, obj, 3, (struct expected) { 5 / 6., 5 / 6., false, false });
	obj[2].color = NULL;
	judge(red, obj, 3, (struct expected) { 2 / 3., 2 / 3., false, false });
	judge(plain, obj, 3, (struct expected) { 1, 1, true, true });
}

static void exclude_alone_fails(void **state)
{
	static const char meta[] = "{\"include\": [{\"class\": \"square\", \"count\": 1}], "
				   "\"exclude\": [{\"class\": \"cross\", \"count\": 2}]}";
	const struct geneval_object obj[] = { at("square", "red", 0, 0), at("cross", "red", 9, 0),
					      at("cross", "red", 18, 0) };

	(void)state;
	judge(meta, obj, 2, (struct expected) { 1, 1, true, true });
	judge(meta, obj, 3, (struct expected) { 1, 1, false, false });
}

static void colors(void **state)
{
	static const char meta[] =
	    "{\"include\": [{\"class\": \"circle\", \"count\": 1, \"color\": \"blue\"}]}";
	struct geneval_object obj[] = { at("circle", "blue", 0, 0), at("circle", "red", 9, 0) };

	(void)state;
	judge(meta, obj, 0, (struct expected) { 0, 0, false, false });
	judge(meta, obj, 1, (struct expected) { 1, 1, true, true });
	judge(meta, obj + 1, 1, (struct expected) { 0.5, 0.5, false, false });
	/* Two circles: the best one decides what the original calls correct; of equals, the first. */
	judge(meta, obj, 2, (struct expected) { 0, 0, false, true });
	obj[1].score = 0.95;
	judge(meta, obj, 2, (struct expected) { 0, 0, false, false });
}

static void color_attr(void **state)
{
	static const char meta[] =
	    "{\"include\": [{\"class\": \"circle\", \"count\": 1, \"color\": \"blue\"}, "
	    "{\"class\": \"cross\", \"count\": 1, \"color\": \"red\"}]}";
	const struct geneval_object swapped[] = { at("circle", "red", 0, 0), at("cross", "blue", 9, 0) };
	const struct geneval_object right[] = { at("circle", "blue", 0, 0), at("cross", "red", 9, 0),
						at("cross", "red", 18, 0) };

	(void)state;
	judge(meta, right, 2, (struct expected) { 1, 1, true, true });
	judge(meta, swapped, 2, (struct expected) { 0.5, 0.5, false, false });
	judge(meta, right, 1, (struct expected) { 0.5, 0.5, false, false });
	judge(meta, right, 3, (struct expected) { 0.5, 0.5, false, true });
}

static const char left_of[] = "{\"include\": [{\"class\": \"circle\", \"count\": 1}, "
			      "{\"class\": \"cross\", \"count\": 1, \"position\": [\"left of\", 0]}]}";

static void position(void **state)
{
	const struct geneval_object right[] = { at("cross", "red", 4, 12), at("circle", "red", 20, 12) };
	const struct geneval_object wrong[] = { at("cross", "red", 20, 12), at("circle", "red", 4, 12) };
	const struct geneval_object crowd[] = { at("cross", "red", 4, 12), at("circle", "red", 20, 12),
						at("circle", "red", 12, 12) };

	(void)state;
	judge(left_of, right, 2, (struct expected) { 1, 1, true, true });
	/* The reference's other fault: terms 1, 1, 0, 1 for a wrong position. */
	judge(left_of, wrong, 2, (struct expected) { 2 / 3., 0.75, false, false });
	judge(left_of, right, 1, (struct expected) { 1 / 3., 1 / 3., false, false }); /* no target */
	judge(left_of, right + 1, 1,
	      (struct expected) { 1 / 3., 1 / 3., false, false }); /* nothing to place */
	judge(left_of, right, 0, (struct expected) { 0, 0, false, false });
	judge(left_of, crowd, 3,
	      (struct expected) { 1 / 3., 1 / 3., false, true }); /* two targets for one wanted */
}

static bool holds(const char *relation, double dx, double dy)
{
	char meta[256];
	struct err e;
	struct geneval_result r;
	const struct geneval_object obj[] = { at("b", NULL, 50, 50), at("a", NULL, 50 + dx, 50 + dy) };

	snprintf(
	    meta, sizeof meta,
	    "{\"include\": [{\"class\": \"b\", \"count\": 1}, {\"class\": \"a\", \"count\": 1, \"position\": "
	    "[\"%s\", 0]}]}",
	    relation);
	json_t *o = json_parse(meta, strlen(meta), "meta", &e);
	assert_int_equal(geneval_judge(&r, o, obj, 2, false, &e), 0);
	json_decref(o);
	assert_int_equal(r.strict, r.correct);
	return r.strict;
}

/* Boxes of side 6: each component of the offset loses 0.1 * 12 = 1.2 pixels. */
static void relations(void **state)
{
	static const struct {
		double dx, dy;
		const char *said;
	} cases[] = {
		{ -10, 0, "left of" },
		{ 10, 0, "right of" },
		{ 0, -10, "above" },
		{ 0, 10, "below" },
		{ -10, -10, "left of above" }, /* (10 - 1.2) / 14.14 = 0.62 both ways */
		{ 10, 10, "right of below" },
		{ -10, 20, "below" }, /* 8.8 / 22.4 = 0.39; 18.8 / 22.4 = 0.84 */
		{ -1.1, 0, "" },
		{ -1.1, 1.1, "" },      /* within the margin */
		{ -2.3, 0, "" },        /* 1.1 / 2.3 = 0.48: the whole distance counts */
		{ -2.5, 0, "left of" }, /* 1.3 / 2.5 = 0.52 */
		{ -3, 3, "" },          /* 1.8 / 4.24 = 0.42 */
		{ 0, 0, "" },
	};
	static const char *const all[] = { "left of", "right of", "above", "below" };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int k = 0; k < 4; k++)
			if (holds(all[k], cases[i].dx, cases[i].dy) != !!strstr(cases[i].said, all[k]))
				fail_msg("(%g, %g) %s", cases[i].dx, cases[i].dy, all[k]);
}

/* Two crosses wanted: both must stand right, against each of two circles. */
static void position_of_groups(void **state)
{
	static const char meta[] = "{\"include\": [{\"class\": \"circle\", \"count\": 2}, "
				   "{\"class\": \"cross\", \"count\": 2, \"position\": [\"above\", 0]}]}";
	struct geneval_object obj[] = { at("cross", NULL, 20, 0), at("cross", NULL, 30, 0),
					at("circle", NULL, 20, 20), at("circle", NULL, 30, 20) };

	(void)state;
	judge(meta, obj, 4, (struct expected) { 1, 1, true, true });
	judge(meta, obj, 3, (struct expected) { 1.5 / 3, 1.5 / 3, false, false });
	obj[1] = at("cross", NULL, 30, 40);
	judge(meta, obj, 4, (struct expected) { 2 / 3., 3 / 4., false, false });
}

/* Colour and position in one clause: ours keeps the number of terms, the reference's changes. */
static void color_and_position(void **state)
{
	static const char meta[] =
	    "{\"include\": [{\"class\": \"circle\", \"count\": 1, \"color\": \"red\"}, "
	    "{\"class\": \"cross\", \"count\": 1, \"color\": \"blue\", \"position\": [\"left of\", 0]}]}";
	struct geneval_object obj[] = { at("circle", "red", 20, 0), at("cross", "blue", 0, 0) };

	(void)state;
	judge(meta, obj, 2, (struct expected) { 1, 1, true, true });
	judge(meta, obj, 1, (struct expected) { 2 / 5., 2 / 4., false, false });
	obj[1].color = "red";
	judge(meta, obj, 2, (struct expected) { 3 / 5., 3 / 4., false, false });
	obj[1].color = "blue";
	obj[0].color = "blue"; /* the target is not the one meant */
	judge(meta, obj, 2, (struct expected) { 3 / 5., 3 / 5., false, false });
}

static void sixteen_of_a_class(void **state)
{
	static const char meta[] =
	    "{\"include\": [{\"class\": \"circle\", \"count\": 16, \"color\": \"red\"}]}";
	struct geneval_object obj[40];

	(void)state;
	for (int i = 0; i < 40; i++) {
		obj[i] = at("circle", i % 2 ? "red" : "blue", 10 * i, 0);
		obj[i].score = i % 2 ? 0.9 : 0.5; /* the best 16 are red */
	}
	judge(meta, obj, 40, (struct expected) { 1, 1, true, true });
}

static struct detector blobs = { .type = &detector_blobs };

static void refuse(const char *meta, const char *said)
{
	struct err e = { "" };
	struct geneval_result r;
	json_t *o = json_parse(meta, strlen(meta), "meta", &e);

	assert_non_null(o);
	if (!geneval_check(o, &blobs, &e) || !strstr(e.msg, said))
		fail_msg("%s: '%s', wanted '%s'", meta, e.msg, said);
	(void)geneval_judge(&r, o, NULL, 0, false, &e); /* survives it as well */
	json_decref(o);
}

static void bad_metadata(void **state)
{
	(void)state;
	refuse("[]", "not an object");
	refuse("{}", "no \"include\"");
	refuse("{\"include\": []}", "no \"include\"");
	refuse("{\"include\": 3}", "include: not an array");
	refuse("{\"include\": [3]}", "include[0]: not an object");
	refuse("{\"include\": [{\"count\": 1}]}", "no \"class\"");
	refuse("{\"include\": [{\"class\": 7}]}", "class");
	refuse("{\"include\": [{\"class\": \"circle\", \"count\": 0}]}", "count = 0");
	refuse("{\"include\": [{\"class\": \"circle\", \"count\": \"two\"}]}", "count");
	refuse("{\"include\": [{\"class\": \"circle\", \"colour\": \"red\"}]}",
	       "unknown key 'colour' (did you mean 'color'?)");
	refuse("{\"include\": [{\"class\": \"bench\", \"count\": 1}]}",
	       "detector blobs: include[0]: unknown class 'bench' (known: circle, square, triangle, cross, "
	       "wedge, ring, bar, pillar)");
	refuse("{\"include\": [{\"class\": \"circel\", \"count\": 1}]}", "did you mean 'circle'");
	refuse("{\"include\": [{\"class\": \"circle\", \"color\": \"pink\"}]}", "unknown color 'pink'");
	refuse("{\"include\": [{\"class\": \"circle\"}], \"exclude\": [{\"class\": \"dog\"}]}",
	       "exclude[0]: unknown class");
	refuse("{\"include\": [{\"class\": \"circle\", \"position\": [\"left of\", 0]}]}",
	       "not the index of an earlier");
	refuse("{\"include\": [{\"class\": \"circle\"}, {\"class\": \"cross\", \"position\": [\"left of\", "
	       "-1]}]}",
	       "not the index of an earlier");
	refuse(
	    "{\"include\": [{\"class\": \"circle\"}, {\"class\": \"cross\", \"position\": [\"leftof\", 0]}]}",
	    "unknown relation 'leftof' (did you mean 'left of'?)");
	refuse("{\"include\": [{\"class\": \"circle\"}, {\"class\": \"cross\", \"position\": \"left of\"}]}",
	       "position: wanted");
}

static void good_metadata(void **state)
{
	struct err e = { "" };
	json_t *o = json_parse(left_of, strlen(left_of), "meta", &e);

	(void)state;
	assert_int_equal(geneval_check(o, &blobs, &e), 0);
	json_decref(o);
}

/* A detector that tells no colours. */
static void no_colors(void **state)
{
	static const char meta[] = "{\"include\": [{\"class\": \"circle\", \"color\": \"red\"}]}";
	static const char *const none[] = { NULL };
	struct detector d = { .type = &detector_script, .classes = blobs.classes, .colors = none };
	struct err e = { "" };
	json_t *o = json_parse(meta, strlen(meta), "meta", &e);

	(void)state;
	assert_int_equal(geneval_check(o, &d, &e), -1);
	assert_non_null(strstr(e.msg, "include[0] asks for a color, which needs rewards.geneval.clip"));
	assert_int_equal(geneval_colored(o, "circle"), 1);
	assert_int_equal(geneval_colored(o, "square"), 0);
	json_decref(o);
}

static int open_blobs(void **state)
{
	struct err e;

	(void)state;
	return detector_blobs.open(&blobs, NULL, &e);
}

static int close_blobs(void **state)
{
	(void)state;
	detector_blobs.close(&blobs);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single_object),
		cmocka_unit_test(two_object),
		cmocka_unit_test(counting),
		cmocka_unit_test(exclude_alone_fails),
		cmocka_unit_test(colors),
		cmocka_unit_test(color_attr),
		cmocka_unit_test(position),
		cmocka_unit_test(relations),
		cmocka_unit_test(position_of_groups),
		cmocka_unit_test(color_and_position),
		cmocka_unit_test(sixteen_of_a_class),
		cmocka_unit_test(bad_metadata),
		cmocka_unit_test(good_metadata),
		cmocka_unit_test(no_colors),
	};
	return cmocka_run_group_tests(tests, open_blobs, close_blobs);
}
