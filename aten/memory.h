/*
 * memory.h -- how much memory tensors take, and how much is left.
 *
 * In bytes.  What libraries take besides tensors (workspaces of MKL and oneDNN, a GPU's context) is in `left`
 * alone.
 */
#ifndef MEMORY_H
#define MEMORY_H
#include "aten/at.h"
#ifdef __cplusplus
extern "C" {
#endif

struct at_memory {
	size_t now, peak;               /* of tensors: at this moment, and the most since counting began */
	size_t reserved, reserved_peak; /* with what a GPU's allocator keeps for the next ones */
	/* That can still be had: of the GPU; or of the machine, or less where control groups limit it. */
	size_t left;
	size_t own; /* of that, what a limit of this process alone leaves (ulimit -v) */
};
void at_memory_read(enum at_device dev, struct at_memory *m);
void at_memory_count_anew(enum at_device dev); /* the peak is what there is now; a GPU's cache is emptied */

#ifdef __cplusplus
}
#endif
#endif
