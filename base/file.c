#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMP ".tmp-" /* and the process's number */

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
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = -1;

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
	size_t n;
	FILE *f = fopen(path, "rbe");

	if (!f)
		return fail(e, "open", path);
	text_add(&t, "");
	while ((n = fread(buf, 1, sizeof buf, f)) > 0)
		text_add_bytes(&t, buf, n);
	if (ferror(f)) {
		fail(e, "read", path);
		fclose(f);
		text_free(&t);
		return -1;
	}
	fclose(f);
	*data = t.s;
	*size = t.n;
	return 0;
}

int file_begin(struct file_writer *w, const char *path, struct err *e)
{
	*w = (struct file_writer) { .path = mem_str(path),
				    .temp = mem_printf("%s" TEMP "%ld", path, (long)getpid()) };
	w->f = fopen(w->temp, "wbe");
	if (!w->f) {
		fail(e, "write", path);
		free(w->path);
		free(w->temp);
		*w = (struct file_writer) { 0 };
		return -1;
	}
	return 0;
}

void file_drop(struct file_writer *w)
{
	if (w->f)
		fclose(w->f);
	if (w->temp)
		unlink(w->temp);
	free(w->path);
	free(w->temp);
	*w = (struct file_writer) { 0 };
}

/* "NAME.tmp-PID", where NAME begins with one of them. */
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
			unlink(path); /* one that stays does no harm */
			free(path);
		}
	if (d)
		closedir(d);
}

static int sync_parent(const char *path, struct err *e)
{
	char *dir = file_dir(path);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;

	/* Some file systems cannot sync a directory: that is no failure of the write. */
	if (fd < 0 || (fsync(fd) && errno != EINVAL && errno != ENOTSUP))
		ret = fail(e, "sync", dir);
	if (fd >= 0)
		close(fd);
	free(dir);
	return ret;
}

int file_commit(struct file_writer *w, struct err *e)
{
	int ret = 0;

	/* ferror() remembers that a write failed, but not why; flushing what is left often meets it again. */
	errno = 0;
	if (fflush(w->f) || ferror(w->f) || fsync(fileno(w->f))) {
		errno = errno ? errno : EIO;
		ret = fail(e, "write", w->path);
	}
	if (fclose(w->f) && !ret)
		ret = fail(e, "write", w->path);
	w->f = NULL;
	if (!ret && rename(w->temp, w->path))
		ret = fail(e, "write", w->path);
	if (!ret) {
		ret = sync_parent(w->path, e);
		free(w->temp);
		w->temp = NULL;
	}
	file_drop(w);
	return ret;
}

int file_write(const char *path, const void *data, size_t size, struct err *e)
{
	struct file_writer w;

	if (file_begin(&w, path, e))
		return -1;
	fwrite(data, 1, size, w.f);
	return file_commit(&w, e);
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
		if (mkdir(p, 0777) && !(errno == EEXIST && file_is_dir(p)))
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
		return unlink(path) ? fail(e, "remove", path) : 0;
	if (!(dir = opendir(path)))
		return fail(e, "remove", path);
	while (!ret && (d = readdir(dir)))
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..")) {
			char *inner = file_join(path, d->d_name);
			ret = file_remove_tree(inner, e);
			free(inner);
		}
	closedir(dir);
	if (!ret && rmdir(path))
		ret = fail(e, "remove", path);
	return ret;
}

int file_rename_synced(const char *from, const char *to, struct err *e)
{
	return rename(from, to) ? fail(e, "write", to) : sync_parent(to, e);
}

int file_put_tree(const char *from, const char *to, const char *aside, struct err *e)
{
	struct stat st;

	if (lstat(to, &st) && errno == ENOENT)
		return file_rename_synced(from, to, e);
	if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE))
		return sync_parent(to, e);
	/* kernels and file systems that cannot: NFS, some of FUSE */
	if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP)
		return fail(e, "write", to);
	if (file_remove_tree(aside, e))
		return -1;
	if (rename(to, aside))
		return fail(e, "write", to);
	if (!rename(from, to))
		return sync_parent(to, e);
	fail(e, "write", to);
	(void)!rename(aside, to);
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
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(e, "sync", path);
	if (fsync(fd) && errno != EINVAL && errno != ENOTSUP)
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
