/*
 * rope.h -- angles of rotary positions: where each token stands on several axes, and what a head's channels
 * are turned by there (at_rope).
 *
 * An axis owns `width` of a head's channels, in pairs: pair j of width / 2 turns by position * theta^(-2 j /
 * width).  The axes' pairs lie one after the other.
 */
#ifndef ROPE_H
#define ROPE_H
#include "aten/at.h"
#include "base/json.h"

#define ROPE_AXES 4

struct rope {
	int axes;
	int64_t width[ROPE_AXES]; /* even; their sum is a head's width */
	double theta;
	enum at_dtype angles; /* AT_F64, or AT_F32 where the original rounds frequencies and angles */
};

/* Positions (tokens, axes) as float64, as formulas of the device: a GPU replays them.
 * Row l of a line stands at from[a] + l * step[a]; token y * w + x of a grid at from[a], with y added on axis
 * 1 and x on axis 2. */
at_t rope_line(int axes, int64_t n, const double *from, const double *step, enum at_device dev);
at_t rope_grid(int axes, int64_t h, int64_t w, const double *from, enum at_device dev);

/* Of a configuration: r->axes widths of `key` ("axes_dims_rope"), r's own where it says none, that add up to
 * the `head_dim` channels of a head; `what` names the file in errors.  And back. */
int rope_read(struct rope *r, const json_t *o, const char *key, int64_t head_dim, const char *what,
	      struct err *e);
void rope_write(const struct rope *r, json_t *o, const char *key);

/* float32 cosines and sines (S, E) of positions (S, axes); (B, S, E) of (B, S, axes). */
void rope_angles(const struct rope *r, at_t pos_SA, at_t *cos_SE, at_t *sin_SE);

#endif
