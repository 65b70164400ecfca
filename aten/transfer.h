/*
 * transfer.h -- tensors on their way between the CPU and a GPU while both go on working: pinned memory, and a
 * stream of its own for what comes back.  Where there is no GPU all of it is there at once.
 */
#ifndef TRANSFER_H
#define TRANSFER_H
#include "aten/at.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Memory of the CPU that `dev` reads and writes by itself; for the CPU any. */
at_t at_pinned(struct at_dims shape, enum at_dtype dt, enum at_device dev);
/* x on `dev`, the same dtype.  From at_pinned memory the call does not wait: x may be dropped, not changed.
 */
at_t at_send(at_t x, enum at_device dev);

/* Small tensors of the CPU, together: one copy, for which the call does not wait.  out[i] of the innermost
 * scope, NULL where x[i] is; on the CPU it is x[i] itself. */
void at_send_all(int n, const at_t *x, at_t *out, enum at_device dev);

/* From now on this thread's work on a GPU is in a stream of its own, which the GPU prefers to others, so that
 * it waits for no other thread's.  Whatever the program has asked for so far comes before it.  Nothing where
 * no GPU is in use. */
void at_stream_own(void);
/* Waits until what this thread has asked for is done, and may be read in any stream. */
void at_stream_wait(void);

/* Begins to bring x to the CPU, as it is once everything asked of the device until now is done.  What is
 * asked from now on does not wait for it.  x may be dropped, but not changed before at_fetch_end. */
struct at_fetch;
struct at_fetch *at_fetch_begin(at_t x);
bool at_fetch_ready(const struct at_fetch *f); /* would at_fetch_end return without waiting? */
/* Waits until it is there; contiguous, on the CPU, of the innermost scope.  Frees f. */
at_t at_fetch_end(struct at_fetch *f);

#ifdef __cplusplus
}
#endif
#endif
