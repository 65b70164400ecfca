#include "base/io.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool io_faults;

static const char *const call_names[] = { "open",   "write", "fsync", "rename",
					  "unlink", "mkdir", "alloc", "any" };
static const struct {
	const char *name;
	int code;
} errors[] = { { "ENOSPC", ENOSPC }, { "EIO", EIO },       { "EFBIG", EFBIG },
	       { "EDQUOT", EDQUOT }, { "EACCES", EACCES }, { "EROFS", EROFS },
	       { "EINTR", EINTR },   { "ENOMEM", ENOMEM }, { "EINVAL", EINVAL } };

/* The fault that was asked for. */
static struct {
	int call; /* IO_CALLS: any but alloc */
	long at, seen;
	int code; /* errno; 0: short or kill */
	bool shorter, kill, done;
} fault;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool io_set_fault(const char *value)
{
	char call[16], what[16];
	int rank = -1;
	const char *own = getenv("OMPI_COMM_WORLD_RANK");

	memset(&fault, 0, sizeof fault);
	io_faults = false;
	if (!value)
		return true;
	if (sscanf(value, "%15[^:]:%ld:%15[^:]:%d", call, &fault.at, what, &rank) < 3 || fault.at < 1)
		return false;
	for (fault.call = 0; fault.call <= IO_CALLS && strcmp(call_names[fault.call], call);)
		fault.call++;
	fault.shorter = !strcmp(what, "short");
	fault.kill = !strcmp(what, "kill");
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (!strcmp(errors[i].name, what))
			fault.code = errors[i].code;
	if (fault.call > IO_CALLS || (!fault.shorter && !fault.kill && !fault.code))
		return false;
	io_faults = rank < 0 || rank == (own ? atoi(own) : 0);
	return true;
}

bool io_fault_done(void)
{
	return fault.done;
}

__attribute__((constructor)) static void read_variable(void)
{
	const char *value = getenv("CONTRAFLOW_FAULT");

	if (!value || !*value || io_set_fault(value))
		return;
	fprintf(stderr, "contraflow: CONTRAFLOW_FAULT = '%s': write CALL:N:WHAT[:RANK], see base/io.h\n",
		value);
	exit(2);
}

/* Counts a call of this kind; true: this is the one. */
static bool is_due(enum io_call call, const char *path)
{
	bool due = false;

	if (fault.call != (int)call && (fault.call != IO_CALLS || call == IO_ALLOC))
		return false;
	pthread_mutex_lock(&lock);
	if (!fault.done && ++fault.seen == fault.at)
		due = fault.done = true;
	pthread_mutex_unlock(&lock);
	if (!due)
		return false;
	const char *what = fault.shorter ? "short" : "kill";
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (fault.code == errors[i].code)
			what = errors[i].name;
	char line[512]; /* at once, and without memory, which may be what fails */
	int n = snprintf(line, sizeof line, "fault: %s %ld: %s (%s)\n", call_names[call], fault.at, what,
			 path ? path : "");
	(void)!write(STDERR_FILENO, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
	if (fault.kill)
		raise(SIGKILL);
	errno = fault.code;
	return true;
}

bool io_fault(enum io_call call, const char *path)
{
	return is_due(call, path) && fault.code;
}

/* What a call gave, made again while it was interrupted; `made` is evaluated each time. */
#define CALL(call, path, made)                                                                               \
	do {                                                                                                 \
		int ret_;                                                                                    \
		do                                                                                           \
			ret_ = io_faults && io_fault(call, path) ? -1 : (made);                              \
		while (ret_ < 0 && errno == EINTR);                                                          \
		return ret_;                                                                                 \
	} while (0)

int io_open(const char *path, int flags, mode_t mode)
{
	CALL(IO_OPEN, path, open(path, flags | O_CLOEXEC, mode));
}

int io_fsync(int fd, const char *path)
{
	CALL(IO_FSYNC, path, fsync(fd));
}

int io_rename(const char *from, const char *to)
{
	CALL(IO_RENAME, to, rename(from, to));
}

int io_exchange(const char *a, const char *b)
{
	CALL(IO_RENAME, b, renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE));
}

int io_unlink(const char *path)
{
	CALL(IO_UNLINK, path, unlink(path));
}

int io_rmdir(const char *path)
{
	CALL(IO_UNLINK, path, rmdir(path));
}

int io_mkdir(const char *path)
{
	CALL(IO_MKDIR, path, mkdir(path, 0777));
}

int io_write(int fd, const void *data, size_t n, const char *path)
{
	const char *p = data;

	while (n > 0) {
		size_t want = n;

		if (io_faults && is_due(IO_WRITE, path)) {
			if (fault.code == EINTR)
				continue;
			if (fault.code)
				return -1;
			want = (n + 1) / 2;
		}
		ssize_t k = write(fd, p, want);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -1;
		if (k == 0) { /* no progress and no reason */
			errno = EIO;
			return -1;
		}
		p += k;
		n -= (size_t)k;
	}
	return 0;
}

/* ---- Streams ------------------------------------------------------------------------------------------ */

static ssize_t stream_write(void *cookie, const char *data, size_t n)
{
	struct io_stream *s = cookie;

	if (!io_write(s->fd, data, n, s->path))
		return (ssize_t)n;
	if (!s->error)
		s->error = errno;
	return 0; /* what fopencookie takes for an error */
}

static int stream_close(void *cookie)
{
	struct io_stream *s = cookie;

	if (!close(s->fd))
		return 0;
	if (!s->error)
		s->error = errno;
	return -1;
}

FILE *io_stream(struct io_stream *s, int fd, const char *path)
{
	s->fd = fd;
	s->error = 0;
	s->path = strdup(path);
	s->f = s->path ? fopencookie(s, "w",
				     (cookie_io_functions_t) { .write = stream_write, .close = stream_close })
		       : NULL;
	if (s->f) {
		setvbuf(s->f, s->buffer, _IOFBF, sizeof s->buffer); /* glibc ignores a size alone */
	} else {
		free(s->path);
		s->path = NULL; /* who cleans up frees it, too */
	}
	return s->f;
}

/* ---- Records ------------------------------------------------------------------------------------------ */

struct io_records {
	int fd;
	char path[]; /* one piece of memory: nothing else can fail once the file is open */
};

struct io_records *io_records_open(const char *path, bool anew)
{
	size_t n = strlen(path) + 1;
	struct io_records *r = malloc(sizeof *r + n);

	if (!r)
		return NULL;
	memcpy(r->path, path, n);
	r->fd = io_open(path, O_WRONLY | O_APPEND | O_CREAT | (anew ? O_EXCL : 0), 0666);
	if (r->fd < 0) {
		int code = errno;
		free(r);
		errno = code;
		return NULL;
	}
	return r;
}

int io_records_add(struct io_records *r, const void *data, size_t n)
{
	struct stat st;
	bool known = !fstat(r->fd, &st) && S_ISREG(st.st_mode);
	int ret = io_write(r->fd, data, n, r->path);

	if (ret && known) { /* the part that fitted is taken back */
		int code = errno;
		(void)!ftruncate(r->fd, st.st_size);
		errno = code;
	}
	return ret;
}

const char *io_records_path(const struct io_records *r)
{
	return r->path;
}

void io_records_close(struct io_records *r)
{
	if (!r)
		return;
	close(r->fd);
	free(r);
}
