#include "trainer/live/tracker.h"
#include "base/log.h"
#include "base/machine/child.h"
#include "base/mem.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_LINES 4096
#define MOST_BYTES (32 << 20)
#define LOOK       0.2 /* s between looks at whether the end has come */
#define TERM_WAIT  2.0 /* s between SIGTERM and SIGKILL */

struct line {
	struct line *next;
	size_t n;
	char data[];
};

struct tracker {
	char what[96];
	pid_t pid; /* 0: it has ended */
	int in;
	double timeout;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct line *head, **tail;
	int lines;
	size_t bytes;
	int64_t lost;
	bool broken, closing;
	double end; /* with closing: when all is over */
};

static void drop_lines(struct tracker *t)
{
	for (struct line *l = t->head, *next; l; l = next) {
		next = l->next;
		free(l);
	}
	t->head = NULL;
	t->tail = &t->head;
	t->lines = 0;
	t->bytes = 0;
}

/* "exit code 3", "signal 9". */
static const char *status_text(char out[32], int status)
{
	if (WIFSIGNALED(status))
		snprintf(out, 32, "signal %d", WTERMSIG(status));
	else
		snprintf(out, 32, "exit code %d", WEXITSTATUS(status));
	return out;
}

/* Whether it has ended by `end`. */
static bool wait_for_end(struct tracker *t, int *status, double end)
{
	for (;;) {
		pid_t pid = waitpid(t->pid, status, WNOHANG);

		if (pid == t->pid || (pid < 0 && errno != EINTR)) {
			t->pid = 0;
			return true;
		}
		if (clock_now() >= end)
			return false;
		clock_sleep(0.02);
	}
}

static double end_of(struct tracker *t)
{
	pthread_mutex_lock(&t->lock);
	double end = t->closing ? t->end : INFINITY;
	pthread_mutex_unlock(&t->lock);
	return end;
}

/* Nothing is told any more.  Of the thread. */
static void give_up(struct tracker *t, const char *why)
{
	char how[32], ended[64] = "has closed its standard input";
	int status;

	if (!why && wait_for_end(t, &status, clock_now() + LOOK))
		snprintf(ended, sizeof ended, "has ended (%s)", status_text(how, status));
	log_warn("log.exec ('%s') %s: it is told nothing more, and the run goes on without it", t->what,
		 why ? why : ended);
	pthread_mutex_lock(&t->lock);
	t->broken = true;
	drop_lines(t);
	pthread_mutex_unlock(&t->lock);
}

/* -1: it is given up, or the time at the end is over. */
static int write_line(struct tracker *t, const char *s, size_t n)
{
	double since = clock_now();

	while (n) {
		ssize_t k = child_write(t->in, s, n);

		if (k > 0) {
			s += k;
			n -= (size_t)k;
			since = clock_now();
		} else if (k < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = t->in, .events = POLLOUT };

			if (clock_now() >= end_of(t))
				return -1; /* tracker_close says so */
			if (clock_now() - since > t->timeout) {
				char why[96];

				snprintf(why, sizeof why, "has read nothing for %g s (log.exec_timeout)",
					 t->timeout);
				give_up(t, why);
				return -1;
			}
			poll(&p, 1, (int)(LOOK * 1000));
		} else if (k < 0 && errno != EINTR) {
			give_up(t, NULL);
			return -1;
		}
	}
	return 0;
}

static void *writer(void *arg)
{
	struct tracker *t = arg;
	int ret = 0;

	while (!ret) {
		pthread_mutex_lock(&t->lock);
		while (!t->head && !t->closing)
			pthread_cond_wait(&t->work, &t->lock);
		struct line *l = t->head;
		if (l) {
			t->head = l->next;
			t->tail = t->head ? t->tail : &t->head;
			t->lines--;
			t->bytes -= l->n;
		}
		pthread_mutex_unlock(&t->lock);
		if (!l)
			break;
		ret = write_line(t, l->data, l->n);
		free(l);
	}
	return NULL;
}

int tracker_start(struct tracker **out, const struct conf_list *command, double timeout, struct err *e)
{
	struct tracker *t = mem_zero(1, sizeof *t);
	sigset_t all, old;

	for (int i = 0, n = 0; i < command->n && n < (int)sizeof t->what; i++)
		n += snprintf(t->what + n, sizeof t->what - (size_t)n, "%s%s", i ? " " : "", command->v[i]);
	if (child_start(&t->pid, &t->in, NULL, command->v, command->n, e)) {
		free(t);
		return -1;
	}
	t->timeout = timeout;
	t->tail = &t->head;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->work, NULL);
	sigfillset(&all); /* the run's signals are the other threads' */
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int code = pthread_create(&t->thread, NULL, writer, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (code)
		die("cannot start a thread: %s", strerror(code));
	*out = t;
	return 0;
}

void tracker_tell(struct tracker *t, const char *line, size_t n)
{
	bool first = false;

	pthread_mutex_lock(&t->lock);
	if (t->lines >= MOST_LINES || t->bytes + n > MOST_BYTES) {
		first = !t->lost++;
	} else if (!t->broken) {
		struct line *l = mem_alloc(sizeof *l + n + 1);

		l->next = NULL;
		l->n = n + 1;
		memcpy(l->data, line, n);
		l->data[n] = '\n';
		*t->tail = l;
		t->tail = &l->next;
		t->lines++;
		t->bytes += l->n;
		pthread_cond_signal(&t->work);
	}
	pthread_mutex_unlock(&t->lock);
	if (first)
		log_warn("log.exec ('%s') reads more slowly than it is told: lines are lost", t->what);
}

/* It has had its time. */
static void end_it(struct tracker *t, double wait)
{
	int status;

	if (!t->broken)
		log_warn("log.exec ('%s') has not ended within %g s (log.exec_wait): it is killed", t->what,
			 wait);
	kill(-t->pid, SIGTERM);
	if (wait_for_end(t, &status, clock_now() + TERM_WAIT))
		return;
	kill(-t->pid, SIGKILL);
	waitpid(t->pid, &status, 0);
}

void tracker_close(struct tracker *t, double wait)
{
	char how[32];
	int status = 0;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->closing = true;
	t->end = clock_now() + wait;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	close(t->in);
	if (t->pid && !wait_for_end(t, &status, t->broken ? clock_now() : t->end))
		end_it(t, wait);
	else if (status && !t->broken)
		log_warn("log.exec ('%s') has ended with %s", t->what, status_text(how, status));
	drop_lines(t);
	pthread_cond_destroy(&t->work);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
