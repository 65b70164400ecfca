#include "base/machine/stop.h"
#include "base/log.h"
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ONE_EVENT 1.0 /* s within which signals are one */

static const struct {
	int number;
	const char *name;
} signals[] = { { SIGTERM, "SIGTERM" }, { SIGUSR1, "SIGUSR1" }, { SIGINT, "SIGINT" } };
#define N_SIGNALS (sizeof signals / sizeof *signals)

static const char *_Atomic reason; /* NULL: nobody asked */
static _Atomic double end = INFINITY, first;
static atomic_bool speaks;
static double start;
static int code = STOP_AGAIN;

/* Nothing here but what a handler may do. */
static void on_signal(int number)
{
	static const char text[] =
	    ": ends after what is in hand, and keeps the work; a second signal ends at "
	    "once\n";
	const char *name = "signal", *nobody = NULL;
	double now = clock_now();

	for (size_t i = 0; i < N_SIGNALS; i++)
		if (signals[i].number == number)
			name = signals[i].name;
	if (atomic_compare_exchange_strong(&reason, &nobody, name) || !(atomic_load(&first) > 0)) {
		atomic_store(&first, now);
		if (!atomic_load(&speaks))
			return;
		ssize_t ignored = write(STDERR_FILENO, name, strlen(name));
		ignored = write(STDERR_FILENO, text, sizeof text - 1);
		(void)ignored;
		return;
	}
	if (now - atomic_load(&first) < ONE_EVENT)
		return;
	signal(number, SIG_DFL);
	raise(number);
}

static void handle(void (*handler)(int))
{
	struct sigaction a = { .sa_handler = handler, .sa_flags = SA_RESTART }, old;

	sigemptyset(&a.sa_mask);
	for (size_t i = 0; i < N_SIGNALS; i++)
		if (!sigaction(signals[i].number, NULL, &old) && old.sa_handler != SIG_IGN)
			sigaction(signals[i].number, &a, NULL);
}

void stop_open(bool says)
{
	atomic_store(&speaks, says);
	start = start > 0 ? start : clock_now();
	handle(on_signal);
}

void stop_close(void)
{
	handle(SIG_IGN);
}

void stop_after(double seconds)
{
	atomic_store(&end, seconds > 0 ? start + seconds : INFINITY);
}

double stop_left(void)
{
	return atomic_load(&end) - clock_now();
}

void stop_ask(const char *why)
{
	const char *nobody = NULL;

	atomic_compare_exchange_strong(&reason, &nobody, why);
}

bool stop_asked(void)
{
	if (stop_left() <= 0)
		stop_ask("run.max_seconds");
	return atomic_load(&reason) != NULL;
}

const char *stop_why(void)
{
	const char *why = atomic_load(&reason);

	return why ? why : "";
}

int stop_check(struct err *e)
{
	return stop_asked() ? err_set(e, "stopped by %s", stop_why()) : 0;
}

void stop_set_code(int to)
{
	code = to;
}

int stop_code(void)
{
	return code;
}
