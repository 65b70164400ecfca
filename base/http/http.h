/*
 * http.h -- many HTTP posts at once (libcurl), each tried again as long as that makes sense.
 *
 * A connection that breaks, a time-out, 408, 429 and 5xx are tried again after a jittered, doubling pause, or
 * after what Retry-After says; any other status is final.  A server that is not there (its connection is
 * refused) may be starting: the deadline alone ends that.  307 and 308 are followed, with the body; of other
 * redirections, which would lose it, the message has the address.  Replies larger than the limit are refused.
 *
 * The environment's proxies are used, but never for an address of this machine.  Failures name the address,
 * without a password in it.
 */
#ifndef HTTP_H
#define HTTP_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_options {
	int in_flight;   /* posts at a time */
	int retries;     /* tries after the first */
	double timeout;  /* s, one try */
	double deadline; /* s, all of one call; then what is not there yet has failed */
	double pause;    /* s before the first retry */
	size_t limit;    /* bytes of a reply */
};
struct http_post {
	const char *body; /* JSON; borrowed */
	size_t size;
	bool ok; /* a reply with status 2xx is in `reply` */
	int tries;
	char *reply; /* NUL-terminated; http_post_free */
	size_t reply_size;
	char why[160]; /* not ok: the address and the last failure */
};

bool http_is_token(const char *token); /* it can stand in a header: printable ASCII without blanks */
struct http_client;                    /* keeps connections open between calls; for one thread at a time */
/* token_env names the environment variable whose value goes as "Authorization: Bearer ..." and into no
 * message;
 * "": none.  An address that is not http or https, or a variable that is not there, is an error. */
int http_client_open(struct http_client **c, const char *url, const char *token_env,
		     const struct http_options *o, struct err *e);
void http_client_close(struct http_client *c); /* NULL is fine */
/* Returns when every post has its reply or has failed. */
void http_post_all(struct http_client *c, struct http_post *post, int n);
void http_post_free(struct http_post *post);

#endif
