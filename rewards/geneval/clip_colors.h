/*
 * clip_colors.h -- the colour of a detected object, as GenEval asks CLIP for it.
 *
 * Zero-shot over ten colours and three templates: each text's unit vector, their mean of a colour as a unit
 * vector, its cosine with the object's.  An object is the image cut to its box, grey (#999) where its mask
 * is not.
 */
#ifndef CLIP_COLORS_H
#define CLIP_COLORS_H
#include "rewards/clip/clip_tower.h"

#define CLIP_COLORS 10
extern const char *const clip_color_names[CLIP_COLORS + 1];

struct color_question {
	const uint8_t *rgb, *mask; /* h x w; mask: not 0 where the object is, or NULL: everywhere */
	int w, h;
	const double *box; /* x0, y0, x1, y1 in pixels */
	const char *class_name;
	const char **color;       /* the answer: of clip_color_names, or NULL for an empty box */
	float logit[CLIP_COLORS]; /* and why: 100 times the cosines */
};

struct clip_colors;
int clip_colors_open(struct clip_colors **c, const char *dir, const char *dtype, enum at_device dev,
		     struct err *e);
int clip_colors_load(struct clip_colors *c, struct err *e); /* before the first question */
void clip_colors_close(struct clip_colors *c);              /* NULL is fine */
/* One caller at a time. */
int clip_colors_ask(struct clip_colors *c, struct color_question *q, int n, struct err *e);

/* What CLIP gets to see: w x h x 3, free() it.  NULL for an empty box.  Rounds as PIL's crop does (halves to
 * the even number) and is black beyond the image's edges (an image's side beyond at most). */
uint8_t *clip_colors_crop(const struct color_question *q, int *w, int *h);

#endif
