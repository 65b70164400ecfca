/* remote_message.h -- the messages of remote.h as bytes; no other file knows their layout. */
#ifndef REMOTE_MESSAGE_H
#define REMOTE_MESSAGE_H
#include "base/text.h"
#include "rewards/mixture/mixture.h"

enum remote_kind {
	/* from a client */
	REMOTE_OPEN,  /* id: the set */
	REMOTE_CHECK, /* id; items without pixels */
	REMOTE_LOAD,  /* id */
	REMOTE_SCORE, /* id; items, for the rewards that take them as they come, or a group for the others */
	REMOTE_SCORE_GROUP,
	REMOTE_END,
	/* from a server, in this order */
	REMOTE_OPENED,
	REMOTE_CHECKED,
	REMOTE_LOADED,
	REMOTE_SCORED
};
struct remote_head {
	int32_t kind, id;
	int32_t n;   /* items; of REMOTE_OPENED entries; of REMOTE_CHECKED the item that cannot be scored */
	int32_t bad; /* an error follows, as text */
	int32_t held_out; /* the held-out rewards score it, too */
};

struct text remote_message(enum remote_kind kind, int id, int n); /* with its head; text_free */
struct text remote_score_message(bool group, bool held_out, int id, int n);
struct text remote_failure(enum remote_kind kind, int id, int n, const struct err *e);
/* The head of a message, or a panic when it has none: these come from this program alone. */
struct remote_head remote_read_head(const char *data, size_t size);
void remote_read_error(const char *data, size_t size, struct err *e);

void remote_put_items(struct text *t, const struct reward_item *item, int n); /* rgb NULL: no pixels */
/* Items that point into data; free the array. */
struct reward_item *remote_get_items(const char *data, size_t size, int n);

/* Values, sub-scores and the reason of n samples. */
void remote_put_scores(struct text *t, const struct mixture_scores *s);
/* Into *s, which has n samples and this many rewards and was initialised. */
void remote_get_scores(const char *data, size_t size, struct mixture_scores *s);

#endif
