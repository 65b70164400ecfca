/*
 * trace.h -- what the device did between two moments, kernel by kernel, for performance work.
 *
 * The file is Chrome's trace format, as PyTorch's profiler writes it: chrome://tracing and ui.perfetto.dev
 * show it; events of category `kernel` have a name and a duration in microseconds.  On the CPU the events are
 * ops.
 */
#ifndef TRACE_H
#define TRACE_H
#include "aten/at.h"
#ifdef __cplusplus
extern "C" {
#endif

void at_trace_begin(enum at_device dev);
/* Waits for the device and writes what it did. */
int at_trace_end(enum at_device dev, const char *path, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
