#include "dist/watch.h"
#include "base/alive.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "dist/comm.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK     0.1  /* s between two looks for questions, and of the thread */
#define SPIN     1e-3 /* s: so long a barrier may take of ranks that are there */
#define NAP      50e-6
#define FIRST    0.5 /* s after the time-out: the lowest of those that wait speaks; before it, who is stuck */
#define SECOND   1.5 /* the other ones, should it be missing itself */
#define LAST     2.5 /* the thread of one that waits: MPI itself hangs */
#define STOPPED  2   /* s between two looks: the process was stopped */
#define LAUNCHER 2.5 /* s that it has to end a job */
#define NAMED    8   /* ranks in a message */

/* What ranks tell each other over comm->signs. */
enum { QUESTION, WAITS, WORKS };
struct sign {
	int kind, question;
	char op[WATCH_OP]; /* of WAITS */
};

static struct {
	struct dist *dist; /* NULL: no MPI, nobody to ask */
	int rank;          /* of the job */
	pthread_t main, thread;
	pthread_mutex_t lock;
	pthread_cond_t leaves;
	bool runs, leave;
	_Atomic double timeout; /* 0: never */
	atomic_bool waits;      /* the main thread waits, and watches by itself */
	atomic_bool inside;     /* it is in MPI, all others as well */
	double looked;
	struct watch *now; /* what it waits for */
	int questions;
} self = { .lock = PTHREAD_MUTEX_INITIALIZER, .leaves = PTHREAD_COND_INITIALIZER };

/* ---- The end ------------------------------------------------------------------------------------- */

/* Once, and by one thread. */
static void only_one_ends(void)
{
	static atomic_flag ends = ATOMIC_FLAG_INIT;

	while (atomic_flag_test_and_set(&ends))
		pause();
}

/* Whether a process is Open MPI's on this host: mpirun itself, or its daemon. */
static bool is_launcher(pid_t pid)
{
	static const char *const names[] = { "mpirun\n", "mpiexec\n", "orterun\n", "orted\n", NULL };
	char path[64], name[32] = "";
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
	if (!(f = fopen(path, "r")))
		return false;
	bool is = fgets(name, sizeof name, f) && text_index(name, names) >= 0;
	fclose(f);
	return is;
}

/*
 * After MPI_Abort the launcher tells its daemons of all hosts, and waits until each has ended what it
 * started: for ever, where one of these hosts is lost.  What a user does then is kill it; so does a process
 * that outlives this one.
 */
static void end_launcher(void)
{
	pid_t launcher = getppid();
	double start = clock_now();

	if (!is_launcher(launcher) || fork())
		return;
	setsid();
	for (int fd = 0; fd < 4096;
	     fd++) /* the launcher waits for the end of what comes through, a GPU for others */
		close(fd);
	while (!kill(launcher, 0) && clock_now() - start < LAUNCHER)
		clock_sleep(0.1);
	kill(launcher, SIGKILL);
	_Exit(0);
}

static const char *host_of(int job_rank)
{
	static char mine[DIST_HOST];

	if (self.dist)
		return self.dist->comm->host[job_rank];
	gethostname(mine, sizeof mine - 1);
	return mine;
}

/* "rank 3 (on b), rank 4 (on b) and 5 more": the ranks that are missing, or those that wait for something
 * else; returns how many they are. */
static int name_ranks(struct text *t, const struct watch *w, bool missing)
{
	int n = 0;

	for (int i = 0; i < w->count; i++) {
		int r = w->first + i;
		const char *op = w->waits[i];

		if (r == self.rank || !*op != missing || (!missing && !strcmp(op, w->op)))
			continue;
		if (n++ >= NAMED)
			continue;
		text_printf(t, "%srank %d (on %s)", n > 1 ? ", " : "", r, host_of(r));
		if (!missing)
			text_printf(t, " waits in %s", op);
	}
	if (n > NAMED)
		text_printf(t, " and %d more", n - NAMED);
	return n;
}

/* Whether one that is missing is on another host, which may be lost with it. */
static bool elsewhere(const struct watch *w)
{
	for (int i = 0; self.dist && i < w->count; i++)
		if (!*w->waits[i] && strcmp(host_of(w->first + i), host_of(self.rank)))
			return true;
	return false;
}

static _Noreturn void give_up(struct watch *w)
{
	struct text t = { 0 };
	char at[128], advice[512];
	int n = name_ranks(&t, w, true);

	if (n)
		text_printf(&t, " %s missing: dead, stopped, stuck, or behind a broken network",
			    n == 1 ? "is" : "are");
	else if (!name_ranks(&t, w, false))
		text_add(&t, "no rank is missing, and nothing comes");
	alive_say(at, advice);
	only_one_ends();
	if (elsewhere(w))
		end_launcher();
	die("%s%s: rank %d of %d (on %s) waited %.1f s: %s (run.timeout)%s", w->op, at, w->dist->rank,
	    w->dist->ranks, host_of(self.rank), clock_now() - w->start, t.s, advice);
}

/* By the thread: the main one does not come back from somewhere. */
static _Noreturn void give_up_self(double silent)
{
	const struct dist_comm *c = self.dist ? self.dist->comm : NULL;
	struct text others = { 0 };
	char at[128], advice[512];
	const char *what;
	int n = 0;

	alive_last(&what);
	alive_say(at, advice);
	text_add(&others, "");
	/* all had come, and one was lost in the midst of it */
	for (int r = 0; c && atomic_load(&self.inside) && r < c->ranks; r++)
		if (r != self.rank && n++ < NAMED)
			text_printf(&others, "%s rank %d (on %s)", n > 1 ? "," : "; lost may be", r,
				    c->host[r]);
	only_one_ends();
	if (n)
		end_launcher();
	die("rank %d (on %s)%s is stuck in '%s': no sign of life for %.1f s (run.timeout)%s%s", self.rank,
	    host_of(self.rank), at, what, silent, others.s, advice);
}

/* A launcher may stop a whole job and let it go on later: that time does not count. */
static void forgive_stop(double *before)
{
	double now = clock_now();
	const char *what;

	alive_last(&what);
	if (now - *before > STOPPED)
		alive_mark(what);
	*before = now;
}

static void *look_after(void *arg)
{
	double before = clock_now();

	(void)arg;
	pthread_mutex_lock(&self.lock);
	while (!self.leave) {
		forgive_stop(&before);
		struct timespec until;
		double limit = atomic_load(&self.timeout), silent = clock_now() - alive_last(NULL);
		bool waits = atomic_load(&self.waits);

		if (limit > 0 && silent > limit + (waits ? LAST : 0))
			give_up_self(silent);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += (long)(LOOK * 1e9);
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&self.leaves, &self.lock, &until);
	}
	pthread_mutex_unlock(&self.lock);
	return NULL;
}

/* ---- Signs of life ------------------------------------------------------------------------------- */

static void tell(int rank, int kind, int question, const char *op)
{
	static struct sign under_way[256]; /* nobody waits until they are taken */
	static unsigned n;
	struct sign *s = &under_way[n++ % 256];
	MPI_Request r;

	*s = (struct sign) { .kind = kind, .question = question };
	snprintf(s->op, sizeof s->op, "%s", op);
	if (MPI_Isend(s, sizeof *s, MPI_BYTE, rank, 0, self.dist->comm->signs, &r) == MPI_SUCCESS)
		MPI_Request_free(&r);
}

static void hear(struct watch *w, int from, const struct sign *s)
{
	if (s->kind == QUESTION) {
		tell(from, w ? WAITS : WORKS, s->question, w ? w->op : "");
		return;
	}
	if (!w || s->question != w->question || from < w->first || from >= w->first + w->count)
		return;
	if (s->kind == WAITS) {
		memcpy(w->waits[from - w->first], s->op, WATCH_OP);
		return;
	}
	alive_mark(w->op); /* one still works: the wait begins anew */
	w->question = 0;
}

/* Main thread. */
static void look(struct watch *w)
{
	double now = clock_now();
	int there = 1;

	if (now - self.looked < LOOK)
		return;
	self.looked = now;
	while (there) {
		MPI_Status status;
		struct sign s;

		if (MPI_Iprobe(MPI_ANY_SOURCE, 0, self.dist->comm->signs, &there, &status) != MPI_SUCCESS ||
		    !there)
			return;
		if (MPI_Recv(&s, sizeof s, MPI_BYTE, status.MPI_SOURCE, 0, self.dist->comm->signs,
			     MPI_STATUS_IGNORE) == MPI_SUCCESS)
			hear(w, status.MPI_SOURCE, &s);
	}
}

static void marked(void)
{
	if (!pthread_equal(pthread_self(), self.main))
		return;
	atomic_store(&self.inside, false);
	if (!self.now)
		look(NULL);
}

static void ask(struct watch *w)
{
	memset(w->waits, 0, (size_t)w->count * sizeof *w->waits);
	w->question = ++self.questions;
	for (int r = w->first; r < w->first + w->count; r++)
		if (r != self.rank)
			tell(r, QUESTION, w->question, "");
}

/* ---- Waiting ------------------------------------------------------------------------------------- */

static void begin(struct watch *w, struct dist *d, const char *op, int first, int count)
{
	*w = (struct watch) { .dist = d,
			      .op = op,
			      .first = first,
			      .count = count,
			      .start = clock_now(),
			      .napped = clock_now(),
			      .waits = mem_zero((size_t)count, sizeof *w->waits) };
	self.now = w;
	alive_mark(op);
}

void watch_begin(struct watch *w, struct dist *d, const char *op)
{
	begin(w, d, op, d->serves ? d->first_server : 0, d->ranks);
}

void watch_nap(struct watch *w)
{
	/* not before: a call of NCCL may hang between the beginning and the first look */
	atomic_store(&self.waits, true);
	forgive_stop(&w->napped);
	double limit = atomic_load(&self.timeout), silent = clock_now() - alive_last(NULL);
	bool first = true;

	if (self.dist)
		look(w);
	if (limit > 0 && self.dist && !w->question && silent > limit / 2)
		ask(w);
	for (int i = 0; w->first + i < self.rank; i++)
		first = first && !*w->waits[i];
	if (limit > 0 && silent > limit + (first ? FIRST : SECOND))
		give_up(w);
	clock_sleep(NAP);
}

void watch_end(struct watch *w)
{
	atomic_store(&self.waits, false);
	self.now = NULL;
	alive_mark(w->op);
	free(w->waits);
}

static void wait_for(struct dist *d, bool everybody, const char *op, int n, MPI_Request *request)
{
	double start = clock_now();
	struct watch w;
	int done = 0;

	alive_mark(op);
	while (!done && clock_now() - start < SPIN)
		MPI_Testall(n, request, &done, MPI_STATUSES_IGNORE);
	if (done)
		return;
	if (everybody)
		begin(&w, d, op, 0, d->comm->ranks);
	else
		watch_begin(&w, d, op);
	while (MPI_Testall(n, request, &done, MPI_STATUSES_IGNORE), !done)
		watch_nap(&w);
	watch_end(&w);
}

void dist_wait(struct dist *d, const char *op, int n, MPI_Request *request)
{
	wait_for(d, false, op, n, request);
}

void dist_come(struct dist *d, MPI_Comm comm, const char *op)
{
	/* twice: a rank that came early, and was lost while it waited, has come to the first barrier and
	 * never comes to the second */
	for (int i = 0; i < 2; i++) {
		MPI_Request r;

		MPI_Ibarrier(comm, &r);
		wait_for(d, comm != dist_group(d), op, 1, &r);
	}
	atomic_store(&self.inside, true);
}

/* ---- Opening and closing ------------------------------------------------------------------------- */

void watch_open(struct dist *d)
{
	struct dist_comm *c = d->comm;

	MPI_Comm_size(MPI_COMM_WORLD, &c->ranks);
	MPI_Comm_dup(MPI_COMM_WORLD, &c->signs);
	MPI_Comm_set_errhandler(c->signs, MPI_ERRORS_RETURN); /* a sign that cannot be given is none */
	c->host = mem_zero((size_t)c->ranks, sizeof *c->host);
	MPI_Comm_rank(MPI_COMM_WORLD, &self.rank);
	gethostname(c->host[self.rank], sizeof *c->host - 1);
	MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, c->host, sizeof *c->host, MPI_BYTE, MPI_COMM_WORLD);
	self.dist = d;
	self.main = pthread_self();
	atomic_store(&self.timeout, DIST_TIMEOUT);
	alive_hook(marked);
}

void dist_watch(double timeout)
{
	int r;

	alive_mark("starting");
	die_by(dist_abort); /* exit() would wait for what the main thread is stuck in */
	atomic_store(&self.timeout, timeout);
	if (self.runs || timeout <= 0)
		return;
	self.leave = false;
	if ((r = pthread_create(&self.thread, NULL, look_after, NULL)))
		die("no thread that watches: %s", strerror(r));
	self.runs = true;
}

void watch_close(void)
{
	if (self.runs) {
		pthread_mutex_lock(&self.lock);
		self.leave = true;
		pthread_cond_signal(&self.leaves);
		pthread_mutex_unlock(&self.lock);
		pthread_join(self.thread, NULL);
	}
	alive_hook(NULL);
	self.runs = false;
	self.dist = NULL;
	self.rank = 0;
	atomic_store(&self.timeout, 0);
}
