#include "base/alive.h"
#include "base/log.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic double last;
static _Atomic(const char *) doing;
static _Atomic(void (*)(void)) hook;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the texts */
static char context[100], advice[500];

void alive_mark(const char *what)
{
	void (*marked)(void) = atomic_load(&hook);

	atomic_store(&doing, what);
	atomic_store(&last, clock_now());
	if (marked)
		marked();
}

double alive_last(const char **what)
{
	const char *now = atomic_load(&doing);

	if (what)
		*what = now ? now : "starting";
	return atomic_load(&last);
}

void alive_hook(void (*marked)(void))
{
	atomic_store(&hook, marked);
}

static void put(char *text, size_t size, const char *fmt, va_list ap)
{
	pthread_mutex_lock(&lock);
	vsnprintf(text, size, fmt, ap);
	pthread_mutex_unlock(&lock);
}

void alive_context(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(context, sizeof context, fmt, ap);
	va_end(ap);
}

void alive_advice(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(advice, sizeof advice, fmt, ap);
	va_end(ap);
}

void alive_say(char at[128], char end[512])
{
	pthread_mutex_lock(&lock);
	snprintf(at, 128, "%s%s", *context ? " at " : "", context);
	snprintf(end, 512, "%s%s", *advice ? "; " : "", advice);
	pthread_mutex_unlock(&lock);
}
