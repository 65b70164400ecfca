#include "trainer/record/runlock.h"
#include "base/io.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRIES 16 /* files that vanish between two looks at them */

/* False: nobody's name is in it. */
static bool read_holder(int fd, struct runlock_holder *h)
{
	char line[160];
	ssize_t n = pread(fd, line, sizeof line - 1, 0);

	*h = (struct runlock_holder) { "", "", 0 };
	line[n > 0 ? n : 0] = '\0';
	return sscanf(line, "%63s %ld %31s", h->host, &h->pid, h->since) == 3;
}

static void own_name(struct runlock_holder *h)
{
	time_t now = time(NULL);
	struct tm tm;

	*h = (struct runlock_holder) { "", "", (long)getpid() };
	if (gethostname(h->host, sizeof h->host - 1) || !*h->host)
		snprintf(h->host, sizeof h->host, "localhost");
	strftime(h->since, sizeof h->since, "%Y-%m-%dT%H:%M:%S", localtime_r(&now, &tm));
}

static int refuse(int fd, const char *path, struct err *e)
{
	struct runlock_holder h;
	char *dir = file_dir(path);

	if (read_holder(fd, &h))
		err_set(
		    e,
		    "%s: another process works in this folder: pid %ld on %s, since %s; wait for its end or "
		    "end it, or take another folder",
		    dir, h.pid, h.host, h.since);
	else /* it has the lock, and its name comes in a moment */
		err_set(e, "%s: another process works in this folder", dir);
	free(dir);
	return -1;
}

/* 1: the file system has no locks. */
static int lock(int fd, const char *path, struct err *e)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	while (fcntl(fd, F_OFD_SETLK, &all)) {
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == EACCES)
			return refuse(fd, path, e);
		if (errno == ENOLCK || errno == ENOTSUP || errno == ENOSYS || errno == EINVAL)
			return 1;
		return err_set(e, "cannot lock %s: %s", path, strerror(errno));
	}
	return 0;
}

static int without_locks(int fd, const char *path, struct err *e)
{
	struct runlock_holder h, own;

	own_name(&own);
	if (read_holder(fd, &h) && !strcmp(h.host, own.host) && h.pid != own.pid &&
	    (!kill((pid_t)h.pid, 0) || errno == EPERM))
		return refuse(fd, path, e);
	log_warn("%s: this file system has no locks: see to it yourself that no second process works in this "
		 "run",
		 path);
	return 0;
}

/* Opened or made.  Who finds that it is gone by the time it is locked has lost it to one that undid its own.
 */
static int try(struct runlock *l, bool *again, struct err *e)
{
	struct stat own, there;

	*again = false;
	l->fd = io_open(l->path, O_RDWR | O_CREAT | O_EXCL, 0666);
	l->made = l->fd >= 0;
	if (l->fd < 0 && errno == EEXIST)
		l->fd = io_open(l->path, O_RDWR, 0);
	if (l->fd < 0) {
		*again = errno == ENOENT;
		return err_set(e, "cannot write %s: %s", l->path, strerror(errno));
	}
	int ret = lock(l->fd, l->path, e);
	if (ret > 0)
		ret = without_locks(l->fd, l->path, e);
	if (!ret && (fstat(l->fd, &own) || stat(l->path, &there) || own.st_ino != there.st_ino)) {
		*again = true;
		ret = err_set(e, "%s: another process works in this folder", l->path);
	}
	if (ret) {
		close(l->fd);
		l->fd = -1;
	}
	return ret;
}

static int sign(struct runlock *l, struct err *e)
{
	struct runlock_holder h;
	char line[160];

	ssize_t n_old = pread(l->fd, l->old, sizeof l->old - 1, 0);
	l->old[n_old > 0 ? n_old : 0] = '\0';
	if (read_holder(l->fd, &h))
		snprintf(l->before, sizeof l->before, "pid %ld on %s, since %s", h.pid, h.host, h.since);
	own_name(&h);
	int n = snprintf(line, sizeof line, "%s %ld %s\n", h.host, h.pid, h.since);
	if (ftruncate(l->fd, 0) || lseek(l->fd, 0, SEEK_SET) || io_write(l->fd, line, (size_t)n, l->path))
		return err_set(e, "cannot write %s: %s", l->path, strerror(errno));
	return 0;
}

int runlock_take(struct runlock *l, const char *dir, struct err *e)
{
	bool again = true;
	int ret = -1;

	*l = (struct runlock) { .fd = -1, .path = file_join(dir, "lock") };
	for (int i = 0; i < TRIES && again; i++)
		ret = try(l, &again, e);
	if (!ret && (ret = sign(l, e)))
		runlock_drop(l, true);
	if (ret) {
		free(l->path);
		*l = (struct runlock) { .fd = -1 };
	}
	return ret;
}

void runlock_drop(struct runlock *l, bool undo)
{
	if (l->fd >= 0) {
		if (undo && l->made)
			(void)!io_unlink(l->path);
		else if (!ftruncate(l->fd, 0) && undo && !lseek(l->fd, 0, SEEK_SET))
			(void)!io_write(l->fd, l->old, strlen(l->old), l->path);
		close(l->fd);
	}
	free(l->path);
	*l = (struct runlock) { .fd = -1 };
}

bool runlock_holder(const char *dir, struct runlock_holder *h)
{
	char *path = file_join(dir, "lock");
	int fd = io_open(path, O_RDONLY, 0);
	bool named = fd >= 0 && read_holder(fd, h);

	if (fd >= 0)
		close(fd);
	free(path);
	return named;
}

bool runlock_held(const char *dir)
{
	struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char *path = file_join(dir, "lock");
	int fd = io_open(path, O_RDONLY, 0);
	bool held = fd >= 0 && !fcntl(fd, F_OFD_GETLK, &all) && all.l_type != F_UNLCK;

	if (fd >= 0)
		close(fd);
	free(path);
	return held;
}
