/*
 * file.h -- whole files, memory maps, and writes that are either complete or absent.
 *
 * A file that this program writes appears under its final name only when its bytes are on disk: written to a
 * temporary beside it (NAME.tmp-NUMBER), fsynced, renamed.  On failure the temporary is removed.  A link is
 * followed: what it leads to is replaced.  A device, a pipe or a socket is written to.
 */
#ifndef FILE_H
#define FILE_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct io_stream;
struct file_map {
	const uint8_t *data; /* NULL for an empty file */
	size_t size;
};

int file_map(struct file_map *m, const char *path, struct err *e); /* read-only, private */
void file_unmap(struct file_map *m);

int file_read(char **data, size_t *size, const char *path, struct err *e); /* NUL added after size; free() */
int file_write(const char *path, const void *data, size_t size, struct err *e); /* atomic */
/* The same for a cache, which may lose what a power cut takes: nothing is synced. */
int file_write_cached(const char *path, const void *data, size_t size, struct err *e);

/* Streamed atomic write: open, fwrite on w.f, then commit or drop.  A failed commit has dropped. */
struct file_writer {
	FILE *f;
	char *path, *temp; /* temp NULL: written in place */
	struct io_stream *stream;
};
int file_begin(struct file_writer *w, const char *path, struct err *e);
int file_commit(struct file_writer *w, struct err *e);
void file_drop(struct file_writer *w);
/* Could file_begin begin?  Asked before hours of work whose result goes there; NULL is fine. */
int file_can_write(const char *path, struct err *e);
/* The same of a folder that is made, with those above it; what is there must be a folder. */
int file_can_fill(const char *path, struct err *e);
/* A new folder NAME.tmp-NUMBER beside `path`, for what is then renamed to it; free().  No other process gets
 * the same one, on whatever host. */
int file_begin_tree(char **temp, const char *path, struct err *e);
/* Removes what killed processes left of such writes in a folder, for files whose names begin with one of
 * `names` (NULL ends them); nobody may be writing there. */
void file_sweep(const char *dir, const char *const *names);

bool file_exists(const char *path);
bool file_is_in(const char *dir, const char *name); /* is there such a file? */
bool file_is_dir(const char *path);
int file_mkdirs(const char *path, struct err *e);      /* like mkdir -p */
int file_remove_tree(const char *path, struct err *e); /* rm -r; absent is fine */
int file_rename_synced(const char *from, const char *to,
		       struct err *e); /* rename, then fsync the parent directory */
/* The folder `from` becomes `to`, and what is there goes out of its way as a whole: to `from`, as the two
 * change places in one step, or where the file system cannot do that, to `aside` in the same folder.  The
 * caller removes both.  In the second case a kill in between leaves an `aside` and no `to`. */
int file_put_tree(const char *from, const char *to, const char *aside, struct err *e);
int file_sync_tree(const char *path, struct err *e); /* fsync every file and directory below */
char *file_join(const char *dir, const char *name);  /* free(); an absolute name wins */
const char *file_base(const char *path);             /* after the last '/' */
char *file_dir(const char *path);                    /* before the last '/', or "."; free() */

/* zstd frames of whole buffers, with checksums. */
char *file_pack_zstd(const void *data, size_t size, int level, size_t *n);                      /* free() */
int file_write_zstd(const char *path, const void *data, size_t size, int level, struct err *e); /* atomic */
int file_read_zstd(char **data, size_t *size, const char *path, struct err *e);                 /* free() */
/* The same of a file that may be anybody's: `end` says from the first n bytes where the data end, or 0 while
 * they do not tell.  What goes on behind that is an error, found before it is in memory. */
int file_read_zstd_until(char **data, size_t *size, const char *path,
			 size_t (*end)(const char *head, size_t n), struct err *e);

/* XXH64 of a buffer (zstd's hash) as used for content hashes and checksums of files. */
uint64_t file_hash(const void *data, size_t size, uint64_t seed);
int file_hash_path(uint64_t *hash, const char *path, struct err *e);

/* Of the kernel's text files: the number after `key`, which begins a line ("": the first line's).  -1: there
 * is none, or a word in its place. */
double file_number(const char *path, const char *key);

#ifdef __cplusplus
}
#endif

#endif
