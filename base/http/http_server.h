/*
 * http_server.h -- a small HTTP server of JSON (libmicrohttpd): a table of routes, a token, limits.
 *
 * A connection has a thread, which answers its requests one after the other.  What is refused gets
 * {"error": "why"} and a status: 401 without the token, 404 for other paths, 405 for other methods, 411 for a
 * body whose length is not told, 413 for a longer one than `body`, 503 with Retry-After for more connections,
 * in all or from one address, or requests than there may be, and for a body that there is no memory for.  The
 * body of a refused request is read and dropped up to four times the limit, so that a client that speaks
 * before it listens gets the answer.  A connection that is silent for `idle` seconds, or whose request is not
 * there within `deadline`, is cut without a word.
 */
#ifndef HTTP_SERVER_H
#define HTTP_SERVER_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum http_status {
	HTTP_OK = 200,
	HTTP_BAD_REQUEST = 400,
	HTTP_UNAUTHORIZED = 401,
	HTTP_NOT_FOUND = 404,
	HTTP_METHOD_NOT_ALLOWED = 405,
	HTTP_LENGTH_REQUIRED = 411,
	HTTP_TOO_LARGE = 413,
	HTTP_UNAVAILABLE = 503
};
struct http_request {
	const char *body; /* NUL added after size */
	size_t size;
	double end; /* clock_now() by which the answer should be there */
};
struct http_answer {
	enum http_status status;
	char *body; /* JSON text; free()d */
};
struct http_route {
	const char *method, *path; /* a route of GET also answers HEAD */
	bool open;                 /* for everybody, without the token */
	const char *type;          /* of its good answers; NULL: application/json */
	void (*answer)(void *ctx, const struct http_request *r, struct http_answer *a); /* in many threads */
};
struct http_server_options {
	const char *host;               /* name or address of this machine */
	int port;                       /* 0: any that is free */
	const char *token;              /* "Authorization: Bearer TOKEN" is asked for; NULL: nothing is */
	bool anyone;                    /* without a token other machines may ask, too */
	const struct http_route *route; /* ended by one without a method */
	void *ctx;
	size_t body;     /* bytes of a request's body */
	int connections; /* at a time */
	int per_address; /* of those from one address */
	int requests;    /* with a body, at a time */
	double idle;     /* s, rounded up */
	double deadline; /* s, for a request to come and be answered, and again for its answer to go */
};

struct http_server;
/* Listens when it returns.  A host that is not a loopback address without a token is an error. */
int http_server_open(struct http_server **s, const struct http_server_options *o, struct err *e);
const char *http_server_url(const struct http_server *s); /* "http://127.0.0.1:8765" */
/* Watches over deadlines until stop_fd can be read. */
void http_server_run(struct http_server *s, int stop_fd);
/* Takes no more connections, finishes the requests whose headers are there, ends.  NULL is fine. */
void http_server_close(struct http_server *s);
/* {"error": why} for an answer. */
char *http_server_error(const char *why);

#endif
