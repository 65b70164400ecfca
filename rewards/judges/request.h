/*
 * request.h -- what a judge is asked, read: the other end of reply.h's protocol.
 *
 * {"version": 1, "items": [{"prompt": "...", "meta": {...}, "image": "iVBORw0..."}, ...]}: images as PNG or
 * JPEG in base64, `meta` an object or absent; keys of other names are left alone.  It comes from outside, so
 * nothing in it is believed: sizes stand in an image's header and are checked, of all images, before the
 * first is decompressed.
 */
#ifndef REQUEST_H
#define REQUEST_H
#include "base/json.h"
#include "rewards/reward.h"

#define REQUEST_VERSION 1

struct request_limits {
	int items;      /* images */
	int side;       /* pixels, of an image's width and of its height */
	int64_t pixels; /* of all images together */
};
struct request {
	struct reward_item *item; /* n; what they point at is the request's */
	int n;
	json_t *body; /* the prompts */
};
/* A pure function of the bytes.  On an error, which names the item ("items[3].image: ..."), there is nothing
 * to release. */
int request_parse(struct request *r, const char *body, size_t size, const struct request_limits *l,
		  struct err *e);
void request_release(struct request *r);

#endif
