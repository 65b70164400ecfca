#include "base/file.h"
#include "base/io.h"
#include "base/mem.h"
#include "base/text.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TEMP ".tmp-" /* and a number */

/* "cannot VERB PATH: why (what to do)". */
static int fail(struct err *e, const char *verb, const char *path)
{
	int code = errno;
	const char *hint = code == ENOSPC   ? "; free some space and try again"
			   : code == EACCES ? "; check who may write there"
			   : code == EROFS  ? "; choose another place"
			   : code == EDQUOT ? "; the quota is used up"
					    : "";
	return err_set(e, "cannot %s %s: %s%s", verb, path, strerror(code), hint);
}

int file_map(struct file_map *m, const char *path, struct err *e)
{
	struct stat st;
	int fd = io_open(path, O_RDONLY, 0), ret = -1;

	*m = (struct file_map) { 0 };
	if (fd < 0)
		return fail(e, "open", path);
	if (fstat(fd, &st)) {
		fail(e, "read", path);
		goto out;
	}
	if (!S_ISREG(st.st_mode)) {
		err_set(e, "cannot read %s: not a regular file", path);
		goto out;
	}
	if (st.st_size > 0) {
		void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) {
			fail(e, "map", path);
			goto out;
		}
		m->data = p;
		m->size = (size_t)st.st_size;
	}
	ret = 0;
out:
	close(fd);
	return ret;
}

void file_unmap(struct file_map *m)
{
	if (m->data)
		munmap((void *)(uintptr_t)m->data, m->size);
	*m = (struct file_map) { 0 };
}

int file_read(char **data, size_t *size, const char *path, struct err *e)
{
	struct text t = { 0 };
	char buf[65536];
	ssize_t n;
	int fd = io_open(path, O_RDONLY, 0);

	if (fd < 0)
		return fail(e, "open", path);
	text_add(&t, "");
	while ((n = read(fd, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR))
		if (n > 0)
			text_add_bytes(&t, buf, (size_t)n);
	if (n < 0) {
		fail(e, "read", path);
		close(fd);
		text_free(&t);
		return -1;
	}
	close(fd);
	*data = t.s;
	*size = t.n;
	return 0;
}

static void drop(char **s)
{
	free(*s);
	*s = NULL;
}

/* The number of a file that this process has open, by its name: /dev/stdout's link, /dev/fd/63; -1: another.
 */
static int open_already(const char *path)
{
	static const char *const places[] = { "/dev/fd/", "/proc/self/fd/" };
	char *end;

	for (int i = 0; i < 2; i++)
		if (text_starts(path, places[i]) && path[strlen(places[i])]) {
			long fd = strtol(path + strlen(places[i]), &end, 10);
			return *end || fd < 0 || fd > INT_MAX ? -1 : (int)fd;
		}
	return -1;
}

/* Where links lead, whether or not there is something; NULL and errno where they lead in circles. */
static char *follow(const char *path)
{
	enum { MOST = 40 };
	char *at = mem_str(path), to[4096];

	for (int i = 0; i < MOST; i++) {
		ssize_t n = open_already(at) >= 0 ? -1 : readlink(at, to, sizeof to - 1);

		if (n < 0)
			return at;
		to[n] = '\0';
		char *dir = file_dir(at), *next = file_join(dir, to);
		free(dir);
		free(at);
		at = next;
	}
	free(at);
	errno = ELOOP;
	return NULL;
}

/* A device, a pipe or a socket is written to, not replaced.  What a descriptor's name in /proc leads to may
 * have no name of its own. */
static bool is_in_place(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* A name that nobody can guess, and that two processes, perhaps on two hosts of one file system, have in
 * common once in 2^64; free(). */
static char *temporary_name(const char *path)
{
	uint64_t number = 0;

	if (getrandom(&number, sizeof number, 0) != sizeof number) /* before the machine has gathered any */
		number = (uint64_t)getpid() << 32 ^ (uint64_t)time(NULL);
	return mem_printf("%s" TEMP "%" PRIu64, path, number);
}

#define TRIES 100

static int open_temporary(struct file_writer *w)
{
	for (int k = 0; k < TRIES; k++) {
		free(w->temp);
		w->temp = temporary_name(w->path);
		int fd = io_open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
		if (fd >= 0 || errno != EEXIST)
			return fd;
	}
	return -1;
}

int file_begin_tree(char **temp, const char *path, struct err *e)
{
	char *above = file_dir(path);
	int ret = file_mkdirs(above, e);

	*temp = NULL;
	for (int k = 0; !ret && k < TRIES; k++) {
		free(*temp);
		*temp = temporary_name(path);
		if (!io_mkdir(*temp))
			break;
		if (errno != EEXIST || k == TRIES - 1)
			ret = fail(e, "make", *temp);
	}
	free(above);
	if (ret) {
		free(*temp);
		*temp = NULL;
	}
	return ret;
}

int file_begin(struct file_writer *w, const char *path, struct err *e)
{
	char *end = follow(path);
	int own = end ? open_already(end) : -1, fd;
	bool in_place = own >= 0 || is_in_place(path);

	if (!end) {
		*w = (struct file_writer) { 0 };
		return fail(e, "write", path);
	}
	*w = (struct file_writer) { .stream = mem_zero(1, sizeof *w->stream) };
	w->path = in_place ? mem_str(path) : mem_str(end);
	/* written through its own descriptor: what a shell appends to is neither cut off nor replaced */
	fd = own >= 0   ? fcntl(own, F_DUPFD_CLOEXEC, 0)
	     : in_place ? io_open(path, O_WRONLY, 0)
			: open_temporary(w);
	free(end);
	w->f = fd < 0 ? NULL : io_stream(w->stream, fd, w->path);
	if (!w->f) {
		fail(e, "write", path);
		if (fd >= 0)
			close(fd);
		else
			drop(&w->temp); /* it is not ours */
		file_drop(w);
		return -1;
	}
	return 0;
}

void file_drop(struct file_writer *w)
{
	if (w->f)
		fclose(w->f);
	if (w->temp)
		io_unlink(w->temp);
	if (w->stream)
		free(w->stream->path);
	free(w->stream);
	free(w->path);
	free(w->temp);
	*w = (struct file_writer) { 0 };
}

/* May something new be made in a folder?  With `climb` it may have to be made itself, and those above it. */
static int can_fill(const char *dir, bool climb, const char *path, struct err *e)
{
	struct stat st;
	char *at = mem_str(dir);

	while (climb && stat(at, &st) && errno == ENOENT && strcmp(at, ".") && strcmp(at, "/")) {
		char *above = file_dir(at);
		free(at);
		at = above;
	}
	int ret = stat(at, &st) ? fail(e, "write", path) : 0;
	if (!ret && !S_ISDIR(st.st_mode)) {
		errno = ENOTDIR;
		ret = fail(e, "write", path);
	}
	if (!ret && access(at, W_OK | X_OK))
		ret = fail(e, "write", path);
	free(at);
	return ret;
}

int file_can_fill(const char *path, struct err *e)
{
	return path ? can_fill(path, true, path, e) : 0;
}

int file_can_write(const char *path, struct err *e)
{
	if (!path || is_in_place(path))
		return 0;
	char *end = follow(path);
	int ret = end ? 0 : fail(e, "write", path);
	if (!ret && file_is_dir(end)) {
		errno = EISDIR;
		ret = fail(e, "write", path);
	}
	if (!ret && open_already(end) < 0) {
		char *dir = file_dir(end);
		ret = can_fill(dir, false, path, e);
		free(dir);
	}
	free(end);
	return ret;
}

/* "NAME.tmp-NUMBER", where NAME begins with one of them. */
static bool is_left(const char *name, const char *const *names)
{
	const char *temp = strstr(name, TEMP);

	if (!temp || !temp[strlen(TEMP)] ||
	    strspn(temp + strlen(TEMP), "0123456789") != strlen(temp + strlen(TEMP)))
		return false;
	for (; *names; names++)
		if (text_starts(name, *names) && strlen(*names) <= (size_t)(temp - name))
			return true;
	return false;
}

void file_sweep(const char *dir, const char *const *names)
{
	DIR *d = opendir(dir);

	for (struct dirent *x; d && (x = readdir(d));)
		if (is_left(x->d_name, names)) {
			char *path = file_join(dir, x->d_name);
			io_unlink(path); /* one that stays does no harm */
			free(path);
		}
	if (d)
		closedir(d);
}

static int sync_parent(const char *path, struct err *e)
{
	char *dir = file_dir(path);
	int fd = io_open(dir, O_RDONLY | O_DIRECTORY, 0), ret = 0;

	/* Some file systems cannot sync a directory: that is no failure of the write. */
	if (fd < 0 || (io_fsync(fd, dir) && errno != EINVAL && errno != ENOTSUP))
		ret = fail(e, "sync", dir);
	if (fd >= 0)
		close(fd);
	free(dir);
	return ret;
}

/* Everything on disk, unless `cached`; the first error is the one that counts. */
static int flush(struct file_writer *w, bool cached)
{
	int code = 0;

	if (fflush(w->f) || ferror(w->f))
		code = w->stream->error ? w->stream->error : errno ? errno : EIO;
	else if (w->temp && !cached && io_fsync(w->stream->fd, w->path))
		code = errno;
	if (fclose(w->f) && !code)
		code = w->stream->error ? w->stream->error : EIO;
	w->f = NULL;
	errno = code;
	return code ? -1 : 0;
}

static int commit(struct file_writer *w, bool cached, struct err *e)
{
	int ret = 0;

	if (flush(w, cached) || (w->temp && io_rename(w->temp, w->path)))
		ret = fail(e, "write", w->path);
	if (!ret && w->temp) {
		drop(&w->temp);
		ret = cached ? 0 : sync_parent(w->path, e);
	}
	file_drop(w);
	return ret;
}

int file_commit(struct file_writer *w, struct err *e)
{
	return commit(w, false, e);
}

int file_write(const char *path, const void *data, size_t size, struct err *e)
{
	struct file_writer w;

	if (file_begin(&w, path, e))
		return -1;
	fwrite(data, 1, size, w.f);
	return file_commit(&w, e);
}

int file_write_cached(const char *path, const void *data, size_t size, struct err *e)
{
	struct file_writer w;

	if (file_begin(&w, path, e))
		return -1;
	fwrite(data, 1, size, w.f);
	return commit(&w, true, e);
}

bool file_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

bool file_is_in(const char *dir, const char *name)
{
	char *path = file_join(dir, name);
	bool yes = file_exists(path);

	free(path);
	return yes;
}

bool file_is_dir(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int file_mkdirs(const char *path, struct err *e)
{
	char *p = mem_str(path);
	int ret = 0;

	for (char *s = p + 1; *p && !ret; s++) {
		char c = *s;
		if (c != '/' && c != '\0')
			continue;
		*s = '\0';
		/* Only what is missing: an automounter says anything but EEXIST of what it keeps. */
		if (!file_is_dir(p) && io_mkdir(p) && !(errno == EEXIST && file_is_dir(p)))
			ret = fail(e, "make directory", p);
		*s = c;
		if (!c)
			break;
	}
	free(p);
	return ret;
}

int file_remove_tree(const char *path, struct err *e)
{
	struct stat st;
	struct dirent *d;
	DIR *dir;
	int ret = 0;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : fail(e, "remove", path);
	if (!S_ISDIR(st.st_mode))
		return io_unlink(path) ? fail(e, "remove", path) : 0;
	if (!(dir = opendir(path)))
		return fail(e, "remove", path);
	while (!ret && (d = readdir(dir)))
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..")) {
			char *inner = file_join(path, d->d_name);
			ret = file_remove_tree(inner, e);
			free(inner);
		}
	closedir(dir);
	if (!ret && io_rmdir(path))
		ret = fail(e, "remove", path);
	return ret;
}

int file_rename_synced(const char *from, const char *to, struct err *e)
{
	return io_rename(from, to) ? fail(e, "write", to) : sync_parent(to, e);
}

int file_put_tree(const char *from, const char *to, const char *aside, struct err *e)
{
	struct stat st;

	if (lstat(to, &st) && errno == ENOENT)
		return file_rename_synced(from, to, e);
	if (!io_exchange(from, to))
		return sync_parent(to, e);
	/* kernels and file systems that cannot: NFS, some of FUSE */
	if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
		return fail(e, "write", to);
	if (file_remove_tree(aside, e))
		return -1;
	if (io_rename(to, aside))
		return fail(e, "write", to);
	if (!io_rename(from, to))
		return sync_parent(to, e);
	fail(e, "write", to);
	(void)!io_rename(aside, to);
	return -1;
}

int file_sync_tree(const char *path, struct err *e)
{
	struct stat st;
	int fd, ret = 0;

	if (lstat(path, &st))
		return fail(e, "sync", path);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) /* a link may lead nowhere, a pipe would wait */
		return 0;
	fd = io_open(path, O_RDONLY, 0);
	if (fd < 0)
		return fail(e, "sync", path);
	if (io_fsync(fd, path) && errno != EINVAL && errno != ENOTSUP)
		ret = fail(e, "sync", path);
	close(fd);
	DIR *dir = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
	if (S_ISDIR(st.st_mode) && !dir && !ret)
		ret = fail(e, "sync", path);
	for (struct dirent *d; !ret && dir && (d = readdir(dir));)
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..")) {
			char *inner = file_join(path, d->d_name);
			ret = file_sync_tree(inner, e);
			free(inner);
		}
	if (dir)
		closedir(dir);
	return ret;
}

char *file_join(const char *dir, const char *name)
{
	if (*name == '/' || !*dir)
		return mem_str(name);
	return mem_printf("%s%s%s", dir, text_ends(dir, "/") ? "" : "/", name);
}

const char *file_base(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

char *file_dir(const char *path)
{
	const char *slash = strrchr(path, '/');
	if (!slash)
		return mem_str(".");
	return slash == path ? mem_str("/") : mem_printf("%.*s", (int)(slash - path), path);
}

double file_number(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	char line[256];
	double v = -1;

	while (f && fgets(line, sizeof line, f))
		if (text_starts(line, key)) {
			if (sscanf(line + strlen(key), "%lf", &v) != 1)
				v = -1; /* "max" */
			break;
		}
	if (f)
		fclose(f);
	return v;
}
