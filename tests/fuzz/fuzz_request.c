/* What a judge is asked: 'j' and a request's body, 'i' and an image's file, sent as one is, or base64. */
#include "base/image.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/judges/request.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

static const struct request_limits limits = { .items = 3, .side = 64, .pixels = 5000 };

/* What is accepted keeps the limits and can be read to its last byte. */
static int parse(const char *body, size_t size)
{
	struct request r;
	struct err e = { "" };
	int64_t pixels = 0;
	unsigned sum = 0;

	if (request_parse(&r, body, size, &limits, &e)) {
		if (!*e.msg || strchr(e.msg, '\n') || r.item || r.body)
			abort();
		return -1;
	}
	if (r.n > limits.items)
		abort();
	for (int i = 0; i < r.n; i++) {
		const struct reward_item *x = &r.item[i];
		size_t n = (size_t)x->w * (size_t)x->h;
		json_t *meta = json_parse(x->meta, strlen(x->meta), "meta", &e);

		if (!json_is_object(meta) || x->w < 1 || x->h < 1 || x->w > limits.side || x->h > limits.side)
			abort();
		for (size_t k = 0; k < 3 * n; k++)
			sum += x->rgb[k];
		sum += (unsigned)strlen(x->prompt);
		pixels += (int64_t)n;
		json_decref(meta);
	}
	if (pixels > limits.pixels || sum == UINT32_MAX)
		abort();
	request_release(&r);
	return 0;
}

/* An image in a request is accepted just when it can be read and keeps the limits. */
static void one_image(const uint8_t *data, size_t size)
{
	struct text body = { 0 };
	struct image im;
	struct err e;
	int w, h;
	bool fits = !image_size(&w, &h, data, size, "x", &e) && w <= limits.side && h <= limits.side;

	if (fits) {
		fits = !image_decode(&im, data, size, "x", &e);
		image_free(&im);
	}
	text_add(&body, "{\"version\":1,\"items\":[{\"prompt\":\"p\",\"image\":\"");
	text_base64(&body, data, size);
	text_add(&body, "\"}]}");
	if (!parse(body.s, body.n) != fits)
		abort();
	text_free(&body);
}

/* Base64 is either not accepted, with nothing left behind, or just what text_base64 writes. */
static void base64(const char *s, size_t n)
{
	struct text bytes = { 0 }, again = { 0 };

	text_add(&bytes, "before");
	if (text_unbase64(&bytes, s, n)) {
		text_base64(&again, bytes.s + 6, bytes.n - 6);
		if (again.n != n || memcmp(again.s, s, n))
			abort();
		text_free(&again);
	} else if (bytes.n != 6) {
		abort();
	}
	if (strncmp(bytes.s, "before", 6))
		abort();
	text_free(&bytes);
}

void fuzz_one(const uint8_t *data, size_t size)
{
	if (!size)
		return;
	if (data[0] == 'j')
		parse((const char *)data + 1, size - 1);
	else if (data[0] == 'i')
		one_image(data + 1, size - 1);
	else
		base64((const char *)data, size);
}
