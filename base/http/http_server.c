#include "base/http/http_server.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <math.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPARE   8 /* connections over the limit, which are told so */
#define SWALLOW 4 /* limits of a body that is refused and still read */

struct http_server {
	struct http_server_options o;
	struct MHD_Daemon *daemon;
	char *url, *token;
	pthread_mutex_t lock;
	struct connection *connections;
	int n_connections;
	int calls; /* whose headers are here and whose answer is not gone yet */
	int busy;  /* those of them that were let in with a body */
	bool closing;
};

/* A connection. */
struct connection {
	struct connection *next, **at;
	int fd;
	double due;           /* when it is cut; INFINITY while an answer is worked out */
	struct in6_addr from; /* IPv4 addresses as ::ffff:a.b.c.d */
	bool crowded, crowd;  /* refused: for all connections, or for those from its address */
};

/* A request on its way. */
struct call {
	struct connection *connection;
	const struct http_route *route; /* NULL: refused */
	bool busy;
	char *body; /* room for `declared` and a NUL */
	size_t size;
	uint64_t declared, dropped; /* bytes of its body: that will come; that came and were not kept */
	double end;
	struct http_answer answer;
	const char *allow; /* of 405 */
};

char *http_server_error(const char *why)
{
	json_t *o = json_object();

	json_object_set_new(o, "error", json_words(why));
	char *text = json_line(o);
	json_decref(o);
	return text;
}

/* ---- Who may ---- */

/* In a time that depends on the lengths alone. */
static bool same(const char *given, const char *secret)
{
	size_t n = strlen(given), m = strlen(secret);
	volatile unsigned differ = n != m;

	for (size_t i = 0; i < n; i++)
		differ |= (unsigned char)given[i] ^ (unsigned char)secret[m ? i % m : 0];
	return !differ;
}

static bool authorised(const struct http_server *s, struct MHD_Connection *c)
{
	const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");

	return !s->token || (given && !strncasecmp(given, "Bearer ", 7) && same(given + 7, s->token));
}

static void refuse(struct call *k, enum http_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct call *k, enum http_status status, const char *fmt, ...)
{
	char why[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof why, fmt, ap);
	va_end(ap);
	k->answer = (struct http_answer) { status, http_server_error(why) };
}

static bool is_method(const struct http_route *r, const char *method)
{
	return !strcmp(r->method, method) || (!strcmp(r->method, "GET") && !strcmp(method, "HEAD"));
}

static bool posts(const struct http_route *r)
{
	return !strcmp(r->method, "POST");
}

/* The route, or a refusal. */
static const struct http_route *find_route(const struct http_server *s, struct call *k,
					   struct MHD_Connection *c, const char *path, const char *method)
{
	const struct http_route *here = NULL;

	for (const struct http_route *r = s->o.route; r->method; r++)
		if (!strcmp(r->path, path)) {
			here = r;
			if (is_method(r, method))
				break;
		}
	if (!(here && here->open) && !authorised(s, c))
		refuse(k, HTTP_UNAUTHORIZED,
		       "the server's token is missing or wrong; send Authorization: Bearer TOKEN");
	else if (!here)
		refuse(k, HTTP_NOT_FOUND, "no such path");
	else if (is_method(here, method))
		return here;
	k->allow = here && !k->answer.status ? here->method : NULL;
	if (k->allow)
		refuse(k, HTTP_METHOD_NOT_ALLOWED, "this path accepts only %s", k->allow);
	return NULL;
}

/* What the headers say of the body; false for a refusal. */
static bool check_body(const struct http_server *s, struct call *k, struct MHD_Connection *c)
{
	const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");

	if (MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Transfer-Encoding") || !length)
		refuse(k, HTTP_LENGTH_REQUIRED, "send a Content-Length");
	else if (k->declared > s->o.body)
		refuse(k, HTTP_TOO_LARGE, "the body is too large: at most %zu bytes", s->o.body);
	return !k->answer.status;
}

/* ---- A request from its headers to the end of its answer ---- */

/* A request with a body: room for that, or a refusal.  With the lock held. */
static void admit(const struct http_server *s, struct call *k, struct MHD_Connection *c)
{
	if (!check_body(s, k, c))
		return;
	if (s->busy >= s->o.requests)
		refuse(k, HTTP_UNAVAILABLE, "too many requests at a time (at most %d); try again later",
		       s->o.requests);
	else if (!(k->body = mem_try((size_t)k->declared + 1)))
		refuse(k, HTTP_UNAVAILABLE,
		       "no memory for a body of %llu bytes; try again later, or send less",
		       (unsigned long long)k->declared);
}

static struct call *begin(struct http_server *s, struct MHD_Connection *c, const char *path,
			  const char *method)
{
	struct call *k = mem_zero(1, sizeof *k);
	const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
	const struct http_route *route;

	k->connection = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
	k->declared =
	    length ? strtoull(length, NULL, 10) : 0; /* libmicrohttpd has refused what is no number */
	k->end = clock_now() + s->o.deadline;
	route = find_route(s, k, c, path, method);
	pthread_mutex_lock(&s->lock);
	s->calls++;
	k->connection->due = k->end;
	if (route && k->connection->crowded)
		refuse(k, HTTP_UNAVAILABLE, "too many connections (at most %d); try again later",
		       s->o.connections);
	else if (route && k->connection->crowd)
		refuse(k, HTTP_UNAVAILABLE,
		       "too many connections from your address (at most %d); close some, or try again later",
		       s->o.per_address);
	else if (route && s->closing)
		refuse(k, HTTP_UNAVAILABLE, "the server is shutting down");
	else if (route && posts(route))
		admit(s, k, c);
	k->route = k->answer.status ? NULL : route;
	k->busy = k->route && posts(route);
	s->busy += k->busy;
	pthread_mutex_unlock(&s->lock);
	return k;
}

static void set_due(struct http_server *s, struct connection *l, double due)
{
	pthread_mutex_lock(&s->lock);
	l->due = due;
	pthread_mutex_unlock(&s->lock);
}

static enum MHD_Result send_answer(struct http_server *s, struct call *k, struct MHD_Connection *c)
{
	struct http_answer *a = &k->answer;
	struct MHD_Response *r =
	    MHD_create_response_from_buffer(strlen(a->body), a->body, MHD_RESPMEM_MUST_FREE);

	if (!r)
		die("out of memory for an answer of %zu bytes", strlen(a->body));
	a->body = NULL; /* the response's now */
	const char *type = a->status == HTTP_OK && k->route ? k->route->type : NULL;
	MHD_add_response_header(r, "Content-Type", type ? type : "application/json");
	if (a->status == HTTP_UNAUTHORIZED)
		MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
	if (a->status == HTTP_UNAVAILABLE)
		MHD_add_response_header(r, "Retry-After", "1");
	if (k->allow)
		MHD_add_response_header(r, "Allow", k->allow);
	pthread_mutex_lock(&s->lock);
	bool last = s->closing || k->connection->crowded || k->connection->crowd;
	k->connection->due = clock_now() + s->o.deadline;
	pthread_mutex_unlock(&s->lock);
	if (last)
		MHD_add_response_header(r, "Connection", "close");
	enum MHD_Result ret = MHD_queue_response(c, (unsigned)a->status, r);
	MHD_destroy_response(r);
	return ret;
}

static bool speaks_first(const struct http_server *s, const struct call *k, struct MHD_Connection *c)
{
	return k->declared <= SWALLOW * (uint64_t)s->o.body &&
	       !MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Expect");
}

static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *path, const char *method,
			      const char *version, const char *data, size_t *size, void **state)
{
	struct http_server *s = ctx;
	struct call *k = *state;

	(void)version;
	if (!k) {
		*state = k = begin(s, c, path, method);
		return k->route || speaks_first(s, k, c) ? MHD_YES : send_answer(s, k, c);
	}
	if (*size) {
		if (k->busy && *size <= k->declared - k->size) {
			memcpy(k->body + k->size, data, *size);
			k->size += *size;
		} else {
			k->dropped += *size;
		}
		*size = 0;
		return k->dropped <= SWALLOW * (uint64_t)s->o.body ? MHD_YES : MHD_NO;
	}
	if (k->route) {
		set_due(s, k->connection, INFINITY);
		if (k->body)
			k->body[k->size] = '\0';
		k->route->answer(s->o.ctx, &(struct http_request) { k->body ? k->body : "", k->size, k->end },
				 &k->answer);
	}
	return send_answer(s, k, c);
}

static void completed(void *ctx, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
	struct http_server *s = ctx;
	struct call *k = *state;

	(void)c, (void)why;
	if (!k)
		return;
	pthread_mutex_lock(&s->lock);
	s->calls--;
	s->busy -= k->busy;
	k->connection->due = clock_now() + s->o.idle + s->o.deadline;
	pthread_mutex_unlock(&s->lock);
	free(k->body);
	free(k->answer.body);
	free(k);
	*state = NULL;
}

static struct in6_addr address_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	const struct sockaddr *a = info ? info->client_addr : NULL;
	struct in6_addr out = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	if (a && a->sa_family == AF_INET6)
		out = ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
	else if (a && a->sa_family == AF_INET)
		memcpy(out.s6_addr + 12, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
	return out;
}

/* With the lock held. */
static int connections_from(const struct http_server *s, const struct in6_addr *from)
{
	int n = 0;

	for (const struct connection *l = s->connections; l; l = l->next)
		n += !memcmp(&l->from, from, sizeof *from);
	return n;
}

static void connected(void *ctx, struct MHD_Connection *c, void **state,
		      enum MHD_ConnectionNotificationCode what)
{
	struct http_server *s = ctx;
	struct connection *l = *state;

	pthread_mutex_lock(&s->lock);
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		*state = l = mem_zero(1, sizeof *l);
		*l = (struct connection) {
			.next = s->connections,
			.at = &s->connections,
			.fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd,
			.due = clock_now() + s->o.idle + s->o.deadline,
			.crowded = s->n_connections >= s->o.connections,
			.from = address_of(c),
		};
		l->crowd = connections_from(s, &l->from) >= s->o.per_address;
		if (l->next)
			l->next->at = &l->next;
		s->connections = l;
		s->n_connections++;
	} else {
		*l->at = l->next;
		if (l->next)
			l->next->at = l->at;
		s->n_connections--;
		free(l);
	}
	pthread_mutex_unlock(&s->lock);
}

/* ---- The server ---- */

static bool is_loopback(const struct sockaddr *a)
{
	if (a->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
	return a->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

/* Listens on an address; its "http://..." into *url. */
static int listen_on(int *fd, char **url, const struct addrinfo *a, const struct http_server_options *o,
		     struct err *e)
{
	struct sockaddr_storage bound;
	socklen_t size = sizeof bound;
	char host[NI_MAXHOST], port[NI_MAXSERV];
	int on = 1;

	if (!o->token && !o->anyone && !is_loopback(a->ai_addr))
		return err_set(
		    e, "%s can be reached from other machines: set a token, or listen on 127.0.0.1", o->host);
	*fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
	if (*fd >= 0 && !setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) &&
	    !bind(*fd, a->ai_addr, a->ai_addrlen) && !listen(*fd, SOMAXCONN) &&
	    !getsockname(*fd, (struct sockaddr *)&bound, &size) &&
	    !getnameinfo((struct sockaddr *)&bound, size, host, sizeof host, port, sizeof port,
			 NI_NUMERICHOST | NI_NUMERICSERV)) {
		*url = mem_printf(a->ai_family == AF_INET6 ? "http://[%s]:%s" : "http://%s:%s", host, port);
		return 0;
	}
	err_set(e, "cannot listen on %s, port %d: %s", o->host, o->port, strerror(errno));
	if (*fd >= 0)
		close(*fd);
	return -1;
}

/* The first of the host's addresses. */
static int listen_at(int *fd, char **url, const struct http_server_options *o, struct err *e)
{
	struct addrinfo want = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
	char port[16];

	snprintf(port, sizeof port, "%d", o->port);
	int code = getaddrinfo(o->host, port, &want, &found);
	if (code)
		return err_set(e, "cannot find the address '%s': %s", o->host, gai_strerror(code));
	int ret = listen_on(fd, url, found, o, e);
	freeaddrinfo(found);
	return ret;
}

int http_server_open(struct http_server **out, const struct http_server_options *o, struct err *e)
{
	struct http_server *s;
	char *url;
	int fd;

	if (listen_at(&fd, &url, o, e))
		return -1;
	s = mem_zero(1, sizeof *s);
	s->o = *o;
	s->o.token = s->token = mem_str(o->token);
	s->url = url;
	pthread_mutex_init(&s->lock, NULL);
	s->daemon = MHD_start_daemon(
	    MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_ITC, 0, NULL, NULL, handle,
	    s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, completed, s,
	    MHD_OPTION_NOTIFY_CONNECTION, connected, s, MHD_OPTION_CONNECTION_LIMIT,
	    (unsigned)(o->connections + SPARE), MHD_OPTION_PER_IP_CONNECTION_LIMIT,
	    (unsigned)(o->per_address + SPARE), MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)ceil(o->idle),
	    MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
	if (s->daemon) {
		*out = s;
		return 0;
	}
	close(fd);
	http_server_close(s);
	return err_set(e, "cannot start the server's threads on %s", o->host);
}

const char *http_server_url(const struct http_server *s)
{
	return s->url;
}

/* Cuts the connections that are over their time; how many requests are under way. */
static int cut_late(struct http_server *s)
{
	double now = clock_now();

	pthread_mutex_lock(&s->lock);
	for (struct connection *l = s->connections; l; l = l->next)
		if (now > l->due) {
			shutdown(l->fd, SHUT_RDWR);
			l->due = INFINITY;
		}
	int calls = s->calls;
	pthread_mutex_unlock(&s->lock);
	return calls;
}

void http_server_run(struct http_server *s, int stop_fd)
{
	struct pollfd p = { .fd = stop_fd, .events = POLLIN };

	while (poll(&p, 1, 500) <= 0)
		cut_late(s);
}

void http_server_close(struct http_server *s)
{
	if (!s)
		return;
	if (s->daemon) {
		pthread_mutex_lock(&s->lock);
		s->closing = true;
		pthread_mutex_unlock(&s->lock);
		close(MHD_quiesce_daemon(s->daemon));
		while (cut_late(s))
			poll(NULL, 0, 10);
		MHD_stop_daemon(s->daemon);
	}
	pthread_mutex_destroy(&s->lock);
	free(s->token);
	free(s->url);
	free(s);
}
