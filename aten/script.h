/*
 * script.h -- networks made elsewhere: TorchScript files and AOTInductor packages (.pt2), run by libtorch.
 *
 * They hold code: a file is opened only where the user's configuration names it.
 */
#ifndef SCRIPT_H
#define SCRIPT_H
#include "aten/at.h"
#include "base/err.h"
#ifdef __cplusplus
extern "C" {
#endif

struct at_script;
/* Is it such a file, as far as its first bytes tell? */
int at_script_check(const char *path, struct err *e);
int at_script_open(struct at_script **s, const char *path, enum at_device dev, struct err *e);
void at_script_close(struct at_script *s); /* NULL is fine */
/* The first tensor of what forward(in[0], ..., in[n - 1]) returns, of the innermost scope; what goes wrong
 * inside is an error, not a panic.  Without gradients. */
int at_script_run(struct at_script *s, int n, const at_t *in, at_t *out, struct err *e);
/* The same with all the tensors of the tuples and lists that it returns, in order; more than `max` are an
 * error.  *count: how many there are, at least 1. */
int at_script_run_all(struct at_script *s, int n, const at_t *in, at_t *out, int max, int *count,
		      struct err *e);

#ifdef __cplusplus
}
#endif
#endif
