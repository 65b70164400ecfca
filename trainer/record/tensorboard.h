/*
 * tensorboard.h -- event files that TensorBoard reads: TFRecord frames (length, masked CRC-32C) around
 * protobuf Events, of which the few fields needed are encoded by hand.  Each opening begins a new file, as
 * TensorBoard expects of a resumed run.
 */
#ifndef TENSORBOARD_H
#define TENSORBOARD_H
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct tensorboard;
/* A new file in `dir` (which exists) for a run that continues after `step`.  Events are kept until tb_flush,
 * which writes all of them or none, and keeps them where it fails; tb_close drops what is left. */
int tb_open(struct tensorboard **tb, const char *dir, int64_t step, struct err *e);
void tb_close(struct tensorboard *tb); /* NULL is fine */
/* `about`: what TensorBoard shows as the tag's description, in its first value of a file; NULL: nothing. */
void tb_scalar(struct tensorboard *tb, const char *tag, int64_t step, double v, const char *about);
void tb_image(struct tensorboard *tb, const char *tag, int64_t step, int w, int h, const uint8_t *rgb);
/* 30 equal buckets from the least to the greatest value; what is not finite is left out. */
void tb_histogram(struct tensorboard *tb, const char *tag, int64_t step, const double *v, int64_t n);
int tb_flush(struct tensorboard *tb, struct err *e);

uint32_t tb_crc32c(const void *data, size_t n); /* Castagnoli; here for the test */

#endif
