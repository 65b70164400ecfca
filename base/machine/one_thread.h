/* one_thread.h -- libraries that bring OpenMP threads of their own, kept to the one that calls them. */
#ifndef ONE_THREAD_H
#define ONE_THREAD_H

/* Calls f(ctx), in which every parallel region of OpenMP has one thread: an environment of OMP_THREAD_LIMIT=1
 * for this call alone, which other threads, libtorch's among them, do not see.  Where the OpenMP runtime is
 * not GCC's, f is only called. */
void one_thread(void (*f)(void *ctx), void *ctx);

#endif
