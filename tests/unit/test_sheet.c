/* base/image: sheets of images with words, and the face they are in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "base/image/font.h"
#include "base/image/sheet.h"

#define W 4
#define H 3
static uint8_t red[W * H * 3], blue[W * H * 3];

static const uint8_t *at(const struct image *im, int x, int y)
{
	assert_true(x >= 0 && x < im->w && y >= 0 && y < im->h);
	return im->rgb + 3 * ((size_t)y * (size_t)im->w + (size_t)x);
}

/* How many pixels of a rectangle are not the paper, whose colour is that of the corner. */
static int inked(const struct image *im, int x0, int y0, int w, int h)
{
	int n = 0;

	for (int y = y0; y < y0 + h; y++)
		for (int x = x0; x < x0 + w; x++)
			n += memcmp(at(im, x, y), im->rgb, 3) != 0;
	return n;
}

/* Images of 40 x 30 pixels stand in cells of 96, in the middle; what words take is beneath them. */
static void places(void **state)
{
	struct sheet_tile tile[3] = { { red, "a photo", "0.50 wanted 2 dogs, found 1", SHEET_WRONG },
				      { blue, NULL, NULL, SHEET_NEITHER },
				      { red, "one", "1.00", SHEET_RIGHT } };
	struct sheet s = { .w = W, .h = H, .cols = 2, .span = 1, .zoom = 10 };
	struct image im = sheet_draw(&s, tile, 3);

	(void)state;
	assert_int_equal(im.w, 10 + 96 + 10 + 96 + 10);
	/* the first row has a line of titles and two of notes: 16 characters are a line */
	assert_int_equal(im.h, 10 + (30 + 4 + 3 * 11 + 10) + (30 + 4 + 2 * 11 + 10));
	for (int y = 0; y < 30; y++)
		for (int x = 0; x < 40; x++) {
			assert_memory_equal(at(&im, 10 + 28 + x, 10 + y), red, 3);
			assert_memory_equal(at(&im, 116 + 28 + x, 10 + y), blue, 3);
			assert_memory_equal(at(&im, 10 + 28 + x, 87 + y), red, 3);
		}
	assert_int_equal(inked(&im, 10, 10, 28, 30), 0);   /* beside an image */
	assert_true(inked(&im, 10, 44, 7 * 6, 9) > 40);    /* its title, */
	assert_int_equal(inked(&im, 52, 44, 54, 9), 0);    /* which ends there, */
	assert_true(inked(&im, 10, 55, 96, 20) > 100);     /* and its note */
	assert_int_equal(inked(&im, 106, 40, 116, 47), 0); /* the second has none */
	assert_int_equal(inked(&im, 0, im.h - 10, im.w, 10), 0);
	image_free(&im);
}

/* Two images share a title, which is drawn across both, and stand closer; headings are above the first row.
 */
static void spans(void **state)
{
	static const char *const heading[] = { "before", "after" };
	char words[200];
	struct sheet_tile tile[2] = { { red, words, NULL, SHEET_NEITHER },
				      { blue, "unseen", NULL, SHEET_NEITHER } };
	struct sheet s = { .w = W, .h = H, .cols = 2, .span = 2, .zoom = 24, .heading = heading };

	(void)state;
	memset(words, 'm', sizeof words); /* one word, broken into lines of 32 characters, then dots */
	words[sizeof words - 1] = '\0';
	struct image im = sheet_draw(&s, tile, 2);
	assert_int_equal(im.w, 10 + 96 + 4 + 96 + 10);
	assert_int_equal(im.h, 10 + 11 + 4 + 72 + 4 + 5 * 11 + 10);
	assert_true(inked(&im, 10, 10, 36, 9) > 40 && inked(&im, 110, 10, 30, 9) > 30);
	assert_int_equal(inked(&im, 46, 10, 60, 9), 0);
	for (int line = 0; line < 4; line++)
		assert_true(inked(&im, 190, 101 + 11 * line, 6, 9) > 0);
	assert_int_equal(inked(&im, 10 + 29 * 6, 101 + 44, 3 * 6, 5), 0); /* dots, low */
	assert_true(inked(&im, 10 + 29 * 6, 101 + 44 + 5, 3 * 6, 2) > 0);
	image_free(&im);
	im = sheet_draw(&s, tile, 0);
	assert_true(im.w > 0 && im.h > 0);
	image_free(&im);
}

static void large_images(void **state)
{
	struct sheet_tile tile = { .title = "m", .verdict = SHEET_NEITHER };
	struct sheet s = { .w = 1024, .h = 8, .cols = 1, .span = 1, .zoom = 1 };
	uint8_t *rgb = calloc(1024 * 8, 3);

	(void)state;
	tile.rgb = rgb;
	struct image im = sheet_draw(&s, &tile, 1); /* letters twice as large */
	assert_int_equal(im.h, 10 + 8 + 4 + 22 + 10);
	assert_true(inked(&im, 10, 22, 10, 18) > 30);
	assert_int_equal(inked(&im, 20, 22, 1000, 18), 0);
	image_free(&im);
	free(rgb);
}

static void check_text(const char *utf8, const char *want)
{
	char *got = font_text(utf8);

	assert_string_equal(got, want);
	free(got);
}

static void texts(void **state)
{
	uint8_t pixel[3] = { 9, 9, 9 }, one[3] = { 0, 0, 0 };
	struct image im = { 1, 1, pixel };

	(void)state;
	check_text("", "");
	check_text("plain ~ text", "plain ~ text");
	check_text("caf\xc3\xa9 \xc3\x85ngstr\xc3\xb6m e\xcc\x81", "cafe Angstrom e");
	check_text("\xe2\x80\x9cso\xe2\x80\x9d \xe2\x80\x94 it\xe2\x80\x99s\xe2\x80\xa6", "\"so\" - it's...");
	check_text("\xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x90\xbb", "\x7f\x7f \x7f");
	check_text("two\nlines\tand\x01", "two lines and\x7f");
	check_text("a\xff\xfe"
		   "b",
		   "a\x7f\x7f"
		   "b");                        /* no UTF-8 */
	font_draw(&im, -3, -3, 7, "M", 1, one); /* beyond every edge */
	font_draw(&im, 5, 5, 1, "M", 1, one);
	for (char c = ' ' + 1; c > 0; c++) { /* every character has ink, and no two the same */
		uint8_t a[6 * 9 * 3] = { 0 }, b[6 * 9 * 3], white[3] = { 255, 255, 255 };
		struct image x = { 6, 9, a }, y = { 6, 9, b };

		font_draw(&x, 0, 0, 1, &c, 1, white);
		for (char d = ' '; d < c; d++) {
			memset(b, 0, sizeof b);
			font_draw(&y, 0, 0, 1, &d, 1, white);
			assert_true(memcmp(a, b, sizeof a) != 0);
		}
		if (c == 0x7f)
			break;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(places), cmocka_unit_test(spans),
					    cmocka_unit_test(large_images), cmocka_unit_test(texts) };

	for (size_t i = 0; i < sizeof red; i += 3) {
		red[i] = 255;
		blue[i + 2] = 255;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
