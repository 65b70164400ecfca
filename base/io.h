/*
 * io.h -- the system calls that change files, and memory, in one place: short writes go on, interrupted calls
 * are made again, and tests can make any of them fail.
 *
 * CONTRAFLOW_FAULT=CALL:N:WHAT[:RANK] makes the N-th call (from 1) of that kind fail.
 *   CALL  open, write, fsync, rename, unlink (with rmdir), mkdir, alloc; any: of all kinds but alloc
 *   WHAT  ENOSPC, EIO, EFBIG, EDQUOT, EACCES, EROFS; EINTR, once, and short (half of a write), which are no
 *         errors; kill: SIGKILL before the call
 *   RANK  of the job, 0 without mpirun; left out: every rank
 * A line on stderr, "fault: write 17: ENOSPC (PATH)", says when.  Without the variable each call costs the
 * test of a flag.
 */
#ifndef IO_H
#define IO_H
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

enum io_call { IO_OPEN, IO_WRITE, IO_FSYNC, IO_RENAME, IO_UNLINK, IO_MKDIR, IO_ALLOC, IO_CALLS };

/* As their namesakes of POSIX; errno says why. `path` of those with a descriptor is for the fault's line. */
int io_open(const char *path, int flags, mode_t mode);
int io_write(int fd, const void *data, size_t n, const char *path); /* all of it: 0 or -1 */
int io_fsync(int fd, const char *path);
int io_rename(const char *from, const char *to);
int io_exchange(const char *a, const char *b); /* renameat2's RENAME_EXCHANGE; counts as a rename */
int io_unlink(const char *path);
int io_rmdir(const char *path);
int io_mkdir(const char *path);

/* A stream that writes by io_write, and closes fd; `error` is the errno of the first write or close that
 * failed, which fflush, ferror and fclose do not always tell. */
struct io_stream {
	FILE *f;
	int fd, error;
	char *path;
	char buffer[1 << 16];
};
/* NULL with errno.  *s stays where it is while the stream is open; the caller frees s->path after fclose. */
FILE *io_stream(struct io_stream *s, int fd, const char *path);
/* A file of records, which is made where it is missing, or with `anew` must not be there: logs.  What is
 * added is there as a whole, or not at all where that fails.  NULL or -1 with errno. */
struct io_records;
struct io_records *io_records_open(const char *path, bool anew);
int io_records_add(struct io_records *r, const void *data, size_t n);
const char *io_records_path(const struct io_records *r);
void io_records_close(struct io_records *r); /* NULL is fine */

/* Whether the call that comes fails, with errno set; for those who make it themselves. */
extern bool io_faults; /* the variable is set */
bool io_fault(enum io_call call, const char *path);
/* The variable's value from here on, for tests; NULL: none.  False: it is not one. */
bool io_set_fault(const char *value);
bool io_fault_done(void); /* the fault has been */

#ifdef __cplusplus
}
#endif

#endif
