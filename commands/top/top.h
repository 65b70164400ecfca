/*
 * top.h -- a run that goes on, as lines: on a terminal redrawn, elsewhere printed.
 */
#ifndef TOP_H
#define TOP_H
#include "base/text.h"
#include "trainer/live/follow.h"
#include <stdbool.h>

struct top_style {
	int width, height; /* height 0: as many lines as there are */
	bool utf8, colour;
};
/* The run, lines ended by '\n'.  With a height none is wider than `width`, and what does not fit below is
 * left out; without one only curves and bars keep to the width. */
void top_lines(struct text *out, const struct follow *w, const struct top_style *style);

/* ---- terminal.c: a terminal that is drawn on, and put back as it was whatever ends the program ---- */
enum terminal_event { TERMINAL_TIME, TERMINAL_RESIZED, TERMINAL_QUIT, TERMINAL_KEY };

bool terminal_is(void);                        /* standard output is one that can be drawn on */
void terminal_size(int *width, int *height);   /* 80 x 24 where it does not tell */
void terminal_open(void);                      /* the other screen, no cursor, keys as they are pressed */
void terminal_draw(const struct text *screen); /* in place of what is there */
enum terminal_event terminal_wait(double seconds);
void terminal_close(void); /* may be called twice */

#endif
