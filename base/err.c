#include "base/err.h"
#include "base/host.h"
#include "base/text.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Keeps the promise of one line: control characters, which file names and values from files may hold, become
 * spaces, and a message that did not fit ends in "..." without half a UTF-8 character before it. */
static void tidy(char *msg, size_t cap, int len)
{
	text_tame(msg);
	if (len < 0 || (size_t)len < cap)
		return;
	size_t n = cap - 4;
	while (n > 0 && ((unsigned char)msg[n] & 0xc0) == 0x80)
		n--;
	memcpy(msg + n, "...", 4);
}

int err_set(struct err *e, const char *fmt, ...)
{
	struct err now; /* an argument may be e->msg itself */
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(now.msg, sizeof now.msg, fmt, ap);
	va_end(ap);
	tidy(now.msg, sizeof now.msg, len);
	memcpy(e->msg, now.msg, strlen(now.msg) + 1);
	return -1;
}

int err_in(struct err *e, const char *fmt, ...)
{
	char context[sizeof e->msg];
	va_list ap;

	va_start(ap, fmt);
	int len = vsnprintf(context, sizeof context, fmt, ap);
	va_end(ap);
	tidy(context, sizeof context, len);
	return err_set(e, "%s: %s", context, e->msg);
}

#define NAME "contraflow: "

static _Atomic(void (*)(int)) way_to_end;
static _Atomic(void (*)(const char *)) told, taker;

void die_by(void (*end)(int code))
{
	atomic_store(&way_to_end, end);
}

void host_die(void (*take)(const char *message))
{
	atomic_store(&taker, take);
}

void die_tells(void (*tell)(const char *message))
{
	atomic_store(&told, tell);
}

_Noreturn void die(const char *fmt, ...)
{
	char line[4096];
	va_list ap;

	/* A progress line may be standing on the terminal.  All at once: other ranks write there, too. */
	int n = snprintf(line, sizeof line, "%s" NAME, isatty(STDERR_FILENO) ? "\r\033[K" : "");
	va_start(ap, fmt);
	int more = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += more < 0 ? 0 : more;
	n = n < (int)sizeof line - 2 ? n : (int)sizeof line - 2;
	line[n] = '\0';
	const char *message = strstr(line, NAME) + strlen(NAME);
	void (*take)(const char *) = atomic_load(&taker);
	if (take)
		take(message);
	line[n] = '\n';
	fwrite(line, 1, (size_t)n + 1, stderr);
	line[n] = '\0';
	void (*tell)(const char *) = atomic_load(&told);
	if (tell)
		tell(message);
	void (*end)(int) = atomic_load(&way_to_end);
	if (end)
		end(1);
	/* Exit handlers in one thread would take from under the others what they work with, and may hang. */
	if (gettid() != getpid())
		quick_exit(1);
	exit(1);
}
