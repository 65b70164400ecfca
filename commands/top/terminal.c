#include "commands/top/top.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define ENTER "\033[?1049h\033[?25l\033[H\033[2J"
#define LEAVE "\033[?25h\033[?1049l"

/* What ends the program, or stops it for a while; SIGWINCH only wakes. */
static const int ends[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
#define N_ENDS (sizeof ends / sizeof *ends)

static struct termios was;
static bool keys; /* standard input is the terminal, and `was` is how it was */
static volatile sig_atomic_t drawn, ended, resized, stopped, resumed;
static sigset_t blocked, before; /* signals come only while terminal_wait waits */

bool terminal_is(void)
{
	const char *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb");
}

void terminal_size(int *width, int *height)
{
	struct winsize size = { 0 };
	bool told = !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);

	*width = told && size.ws_col ? size.ws_col : 80;
	*height = told && size.ws_row ? size.ws_row : 24;
}

static void put(const char *s, size_t n)
{
	while (n) {
		ssize_t k = write(STDOUT_FILENO, s, n);

		if (k < 0 && errno != EINTR)
			return; /* the terminal has gone, and SIGHUP comes */
		s += k > 0 ? k : 0;
		n -= k > 0 ? (size_t)k : 0;
	}
}

static void enter(void)
{
	struct termios raw;

	keys = isatty(STDIN_FILENO) && !tcgetattr(STDIN_FILENO, &was);
	if (keys) {
		raw = was;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_cc[VMIN] = 0;
		raw.c_cc[VTIME] = 0;
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	put(ENTER, strlen(ENTER));
	drawn = 1;
}

/* Nothing here but what a handler may do. */
static void leave(void)
{
	if (!drawn)
		return;
	drawn = 0;
	put(LEAVE, strlen(LEAVE));
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &was);
}

static void on_signal(int number)
{
	if (number == SIGWINCH)
		resized = 1;
	else if (number == SIGTSTP)
		stopped = 1;
	else if (number == SIGCONT)
		resumed = 1;
	else
		ended = number;
}

/* A crash leaves the terminal as it was, too. */
static void on_crash(int number)
{
	leave();
	signal(number, SIG_DFL);
	raise(number);
}

void terminal_open(void)
{
	static const int others[] = { SIGWINCH, SIGTSTP, SIGCONT };
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGFPE, SIGABRT };
	struct sigaction a = { .sa_handler = on_signal }, c = { .sa_handler = on_crash };

	sigemptyset(&blocked);
	for (size_t i = 0; i < N_ENDS; i++)
		sigaddset(&blocked, ends[i]);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		sigaddset(&blocked, others[i]);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	for (size_t i = 0; i < N_ENDS; i++)
		sigaction(ends[i], &a, NULL);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		sigaction(others[i], &a, NULL);
	for (size_t i = 0; i < sizeof crashes / sizeof *crashes; i++)
		sigaction(crashes[i], &c, NULL);
	atexit(leave);
	enter();
}

void terminal_draw(const struct text *screen)
{
	struct text t = { 0 };

	/* every line to its end, and what is below the last: nothing flickers that stays */
	text_add(&t, "\033[H");
	for (const char *s = screen->s, *end; *s; s = end + 1) {
		end = strchr(s, '\n');
		text_add_bytes(&t, s, (size_t)(end - s));
		text_add(&t, end[1] ? "\033[K\r\n" : "\033[K");
	}
	text_add(&t, "\033[J");
	put(t.s, t.n);
	text_free(&t);
}

/* Ctrl-Z: the shell gets its terminal as it was. */
static void suspend(void)
{
	leave();
	stopped = 0;
	raise(SIGSTOP);
	enter();
	resumed = 0;
	resized = 1;
}

enum terminal_event terminal_wait(double seconds)
{
	struct pollfd p = { .fd = keys ? STDIN_FILENO : -1, .events = POLLIN };
	struct timespec t = { .tv_sec = (time_t)seconds };
	char key = 0;

	t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
	int n = ppoll(&p, 1, &t, &before);
	if (ended)
		return TERMINAL_QUIT;
	if (stopped)
		suspend();
	if (resized || resumed) {
		resized = resumed = 0;
		return TERMINAL_RESIZED;
	}
	if (n > 0 && read(STDIN_FILENO, &key, 1) <= 0) /* its other end has gone */
		return TERMINAL_QUIT;
	return n <= 0 ? TERMINAL_TIME : key == 'q' || key == 'Q' ? TERMINAL_QUIT : TERMINAL_KEY;
}

void terminal_close(void)
{
	leave();
	sigprocmask(SIG_SETMASK, &before, NULL);
}
