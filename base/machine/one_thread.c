/* one_thread.c -- the construct `teams thread_limit(1)` as GCC compiles it, looked up where the program runs:
 * it is libtorch that brings the runtime. */
#include "base/machine/one_thread.h"
#include <dlfcn.h>
#include <string.h>

typedef void teams(void (*f)(void *), void *ctx, unsigned n_teams, unsigned thread_limit, unsigned flags);

void one_thread(void (*f)(void *ctx), void *ctx)
{
	void *found = dlsym(RTLD_DEFAULT, "GOMP_teams_reg");
	teams *call;

	if (!found) {
		f(ctx);
		return;
	}
	memcpy(&call, &found, sizeof call); /* ISO C has no cast from one to the other */
	call(f, ctx, 1, 1, 0);
}
