/*
 * child.h -- a program that is started and spoken to.
 */
#ifndef CHILD_H
#define CHILD_H
#include "base/err.h"
#include <stddef.h>
#include <sys/types.h>

/* Is there such a program, in $PATH unless its name has a slash? */
int child_find(const char *name, struct err *e);
/*
 * The program argv[0] with n - 1 arguments, in a process group of its own, which signals of the terminal do
 * not reach.  *in: what it reads as standard input; *out: what it writes as standard output, or where `out`
 * is NULL that goes to standard error.  Both are non-blocking and no other child's.  -1: *pid is 0, and
 * nothing is open.
 */
int child_start(pid_t *pid, int *in, int *out, char *const *argv, int n, struct err *e);
/* write(2), with EPIPE and no SIGPIPE where the child has gone. */
ssize_t child_write(int fd, const void *data, size_t n);

#endif
