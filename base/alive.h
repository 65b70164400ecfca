/*
 * alive.h -- signs of life: what the process does, and when it last came on with it.
 *
 * Whoever works for long calls alive_mark() as often as it is through with a piece (a batch, a prompt, a
 * file), from any thread; progress_tick() does so too.  dist/watch.c looks at the marks, here and on other
 * ranks.
 */
#ifndef ALIVE_H
#define ALIVE_H

/* "sampling": what happens from now on.  The text is the caller's, and lives as long as the program. */
void alive_mark(const char *what);
double
alive_last(const char **what); /* clock_now() of the newest mark, 0 before the first; what may be NULL */
void alive_hook(void (*marked)(void)); /* called by every mark, in its thread; NULL: nothing is */
/* "step 17", for messages about what comes next; and what to do when the process has ended in the midst of it
 * ("go on with --resume").  Main thread. */
void alive_context(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void alive_advice(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Both, as the end of a message: into at[], "" or " at step 17", and into advice[], "" or "; ADVICE". */
void alive_say(char at[128], char advice[512]);

#endif
