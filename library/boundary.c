/* boundary.c -- every call's way in and out: what fails within becomes an error of the caller's. */
#include "aten/at.h"
#include "base/host.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/version.h"
#include "library/inside.h"
#include "rewards/mixture/mixture.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- What fails ---------------------------------------------------------------------------------- */

/* Of a thread that is within a call: where a failure comes back to, and die()'s message if it was that. */
struct landing {
	jmp_buf here;
	bool died;
	char message[1024];
};
static _Thread_local struct landing *landing;

/* A tensor operation failed, and C++ is left.  Its message, or die()'s, on one line. */
static void take_panic(const char *message)
{
	struct landing *l = landing;
	const char *ours = "contraflow: ";

	if (!l) { /* a thread of the library's own */
		fprintf(stderr, "%s\n", message);
		abort();
	}
	if (!l->died)
		snprintf(l->message, sizeof l->message, "%s",
			 message + (strncmp(message, ours, strlen(ours)) ? 0 : strlen(ours)));
	longjmp(l->here, 1);
}

/* die(), which may be inside a callback of libtorch's: its frames are left as a failed operation leaves them.
 */
static void take_death(const char *message)
{
	struct landing *l = landing;

	if (!l)
		return;
	l->died = true;
	snprintf(l->message, sizeof l->message, "%s", message);
	at_panic("%s", message);
}

/* f(ctx), where a failure ends f and not the process; -1 then. */
static int call_caught(void (*f)(void *ctx), void *ctx, struct err *e)
{
	struct landing l = { .died = false };

	if (setjmp(l.here) == 0) {
		landing = &l;
		f(ctx);
		landing = NULL;
		return 0;
	}
	landing = NULL;
	at_unwind();
	return err_set(e, "%s", l.message);
}

/* ---- The process --------------------------------------------------------------------------------- */

static void say_nothing(void *ctx, enum host_level level, const char *line)
{
	(void)ctx, (void)level, (void)line;
}

static void begin(void)
{
	log_quiet(true);
	host_log(say_nothing, NULL);
	at_set_panic(take_panic);
	host_die(take_death);
	mixture_call_by(call_caught);
	version_is(VERSION);
}

static void begin_once(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, begin);
}

const char *contraflow_version(void)
{
	return VERSION;
}

struct log_taker {
	void (*take)(void *ctx, int level, const char *line);
	void *ctx;
};

static void pass_line(void *ctx, enum host_level level, const char *line)
{
	const struct log_taker *t = ctx;

	t->take(t->ctx, (int)level, line);
}

void contraflow_set_log(void (*take)(void *ctx, int level, const char *line), void *ctx)
{
	begin_once();
	if (!take) {
		host_log(say_nothing, NULL);
		return;
	}
	/* never freed: another thread may be about to call it */
	struct log_taker *t = mem_alloc(sizeof *t);
	*t = (struct log_taker) { take, ctx };
	host_log(pass_line, t);
}

int contraflow_set_threads(int n, struct contraflow_error *e)
{
	begin_once();
	if (n < 1 || n > 1024)
		return library_refuse(e, "contraflow_set_threads: must be in [1, 1024]");
	at_set_threads(n);
	return 0;
}

int contraflow_threads(void)
{
	return at_threads();
}

void contraflow_set_deterministic(int on)
{
	begin_once();
	at_set_deterministic(on);
}

/* ---- Calls --------------------------------------------------------------------------------------- */

struct call {
	int (*f)(void *ctx, struct err *e);
	void *ctx;
	struct err e;
	int ret;
};

static void run(void *ctx)
{
	struct call *c = ctx;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	c->ret = c->f(c->ctx, &c->e);
	at_end(s);
}

static int tell(struct contraflow_error *error, enum contraflow_code code, const char *message)
{
	if (error) {
		error->code = code;
		snprintf(error->message, sizeof error->message, "%s", message);
	}
	return -1;
}

int library_refuse(struct contraflow_error *error, const char *message)
{
	return tell(error, CONTRAFLOW_INVALID, message);
}

int library_call(struct library_state *state, int (*f)(void *ctx, struct err *e), void *ctx,
		 struct contraflow_error *error)
{
	struct call c = { .f = f, .ctx = ctx };
	struct err caught;

	if (landing)
		return tell(error, CONTRAFLOW_INVALID,
			    "called from within a call: the log's function must not");
	begin_once();
	if (state && state->broken)
		return tell(error, CONTRAFLOW_FAILED,
			    "an earlier call failed within: close it and open another");
	if (call_caught(run, &c, &caught)) {
		if (state)
			state->broken = true;
		return tell(error, CONTRAFLOW_FAILED, caught.msg);
	}
	return c.ret ? tell(error, CONTRAFLOW_INVALID, c.e.msg) : 0;
}

int library_open(int (*f)(void *ctx, struct err *e), void *ctx, struct contraflow_error *error)
{
	static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&one);
	/* whoever opened something before may have meant another device */
	at_device_set_auto(at_cuda_devices() ? AT_CUDA : AT_CPU);
	int ret = library_call(NULL, f, ctx, error);
	pthread_mutex_unlock(&one);
	return ret;
}

/* ---- Settings ------------------------------------------------------------------------------------ */

int library_count(const char *const *settings)
{
	int n = 0;

	while (settings && settings[n])
		n++;
	return n;
}

int library_set(struct conf_node *tree, const char *const *settings, struct err *e)
{
	for (int i = 0; i < library_count(settings); i++)
		if (conf_set(tree, settings[i], e))
			return -1;
	return 0;
}
