/*
 * host.h -- what a program that holds all this as a library takes over: the log's lines, and what die()
 * says.
 */
#ifndef HOST_H
#define HOST_H

/* Every line of the log goes to `take` alone, in the thread that says it; no lock is held.  NULL: to stderr.
 */
enum host_level { HOST_INFO, HOST_WARNING };
void host_log(void (*take)(void *ctx, enum host_level level, const char *line), void *ctx);

/* Who gets die()'s message before anything is printed, in its thread, with any lock held; who leaves by
 * longjmp takes the matter over.  NULL: nobody. */
void host_die(void (*take)(const char *message));

#endif
