#include "rewards/mixture/remote_message.h"
#include "aten/at.h"
#include "base/mem.h"
#include <string.h>

struct image_head {
	int32_t w, h, pixels; /* pixels: bytes that follow both texts */
	int32_t prompt, meta; /* their lengths, zero bytes included */
	int32_t set;
};

struct text remote_message(enum remote_kind kind, int id, int n)
{
	struct remote_head h = { .kind = (int32_t)kind, .id = id, .n = n };
	struct text t = { 0 };

	text_add_bytes(&t, &h, sizeof h);
	return t;
}

struct text remote_score_message(bool group, bool held_out, int id, int n)
{
	struct remote_head h = {
		.kind = group ? REMOTE_SCORE_GROUP : REMOTE_SCORE, .id = id, .n = n, .held_out = held_out
	};
	struct text t = { 0 };

	text_add_bytes(&t, &h, sizeof h);
	return t;
}

struct text remote_failure(enum remote_kind kind, int id, int n, const struct err *e)
{
	struct remote_head h = { .kind = (int32_t)kind, .id = id, .n = n, .bad = 1 };
	struct text t = { 0 };

	text_add_bytes(&t, &h, sizeof h);
	text_add_bytes(&t, e->msg, strlen(e->msg) + 1);
	return t;
}

/* The next n bytes. */
static const char *next(const char *data, size_t size, size_t *at, size_t n)
{
	const char *p = data + *at;

	if (n > size - *at)
		at_panic("a message about rewards ends too early (%zu bytes)", size);
	*at += n;
	return p;
}

struct remote_head remote_read_head(const char *data, size_t size)
{
	struct remote_head h;
	size_t at = 0;

	memcpy(&h, next(data, size, &at, sizeof h), sizeof h);
	return h;
}

void remote_read_error(const char *data, size_t size, struct err *e)
{
	size_t at = sizeof(struct remote_head);
	const char *text = next(data, size, &at, 1);

	err_set(e, "%.*s", (int)(size - sizeof(struct remote_head)), text);
}

void remote_put_items(struct text *t, const struct reward_item *item, int n)
{
	for (int i = 0; i < n; i++) {
		struct image_head h = { .w = item[i].w,
					.h = item[i].h,
					.prompt = (int32_t)strlen(item[i].prompt) + 1,
					.meta = (int32_t)strlen(item[i].meta) + 1,
					.set = item[i].set };

		h.pixels = item[i].rgb ? h.w * h.h * 3 : 0;
		text_add_bytes(t, &h, sizeof h);
		text_add_bytes(t, item[i].prompt, (size_t)h.prompt);
		text_add_bytes(t, item[i].meta, (size_t)h.meta);
		text_add_bytes(t, item[i].rgb, (size_t)h.pixels);
	}
}

struct reward_item *remote_get_items(const char *data, size_t size, int n)
{
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);
	size_t at = sizeof(struct remote_head);

	for (int i = 0; i < n; i++) {
		struct image_head h;

		memcpy(&h, next(data, size, &at, sizeof h), sizeof h);
		item[i] = (struct reward_item) { .w = h.w, .h = h.h, .set = h.set };
		item[i].prompt = next(data, size, &at, (size_t)h.prompt);
		item[i].meta = next(data, size, &at, (size_t)h.meta);
		item[i].rgb = (const uint8_t *)next(data, size, &at, (size_t)h.pixels);
	}
	return item;
}

void remote_put_scores(struct text *t, const struct mixture_scores *s)
{
	size_t cells = (size_t)s->n * (size_t)s->rewards;

	text_add_bytes(t, s->value, cells * sizeof *s->value);
	text_add_bytes(t, s->sub, cells * REWARD_SUBS * sizeof *s->sub);
	text_add_bytes(t, &s->why_at, sizeof s->why_at);
	text_add_bytes(t, s->why, sizeof s->why);
}

void remote_get_scores(const char *data, size_t size, struct mixture_scores *s)
{
	size_t cells = (size_t)s->n * (size_t)s->rewards, at = sizeof(struct remote_head);
	size_t values = cells * sizeof *s->value, subs = cells * REWARD_SUBS * sizeof *s->sub;

	memcpy(s->value, next(data, size, &at, values), values);
	memcpy(s->sub, next(data, size, &at, subs), subs);
	memcpy(&s->why_at, next(data, size, &at, sizeof s->why_at), sizeof s->why_at);
	memcpy(s->why, next(data, size, &at, sizeof s->why), sizeof s->why);
}
