/*
 * remote.h -- a mixture whose rewards are elsewhere: other processes open them and score, this one hands
 * images over and gets scores.
 *
 * The same images go together as would here, so the scores are those that a mixture here would give, bit by
 * bit, whoever of the servers makes them.  How messages travel is the caller's (struct remote_link); both
 * ends are the same program on the same kind of machine.
 */
#ifndef REMOTE_H
#define REMOTE_H
#include "rewards/mixture/mixture.h"
#include <stddef.h>

/* Messages to and from a peer: a client's peers are servers 0 .. servers - 1, a server's whatever numbers
 * messages come from. */
struct remote_link {
	void *ctx;
	void (*send)(void *ctx, int to, const void *data, size_t size);
	/* A whole message if there is one, *data for the caller to free; never waits. */
	bool (*receive)(void *ctx, int *from, char **data, size_t *size);
	int servers;
	const char *(*name)(void *ctx, int server); /* "reward rank 2"; until the next call */
};

/* ---- the client ---- */

/* The mixture of section `rewards` of root, which the servers know as set number `set`.  One of the clients
 * is in charge: it has the servers open and load the rewards, and alone asks about prompts; the others take
 * its word. `turn` says which server is first; the batches go round. */
int remote_open(struct mixture **m, const struct conf_node *root, const struct remote_link *link, int set,
		bool in_charge, int turn, struct err *e);
/* By the one in charge, when nothing is under way: the servers leave. */
void remote_dismiss(const struct remote_link *link);

/* ---- a server ---- */

/* Opens the rewards of set `set`; loading comes later. */
struct remote_sets {
	void *ctx;
	int (*open)(void *ctx, struct mixture **m, int set, struct err *e);
};
struct remote_server;
struct remote_server *remote_server_new(const struct remote_link *link, const struct remote_sets *sets);
/* Does what there is to do and returns; *idle: there was nothing.  False: dismissed. */
bool remote_server_step(struct remote_server *s, bool *idle);
bool remote_server_scores(const struct remote_server *s); /* something has been asked and not answered */
void remote_server_free(struct remote_server *s);

#endif
