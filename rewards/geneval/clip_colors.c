/* clip_colors.c -- shapes: B objects, S pixels a side, P shared width, C colours, T templates. */
#include "rewards/geneval/clip_colors.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEMPLATES = 3, BATCH = 16, GREY = 0x99 };

const char *const clip_color_names[CLIP_COLORS + 1] = { "red",  "orange", "yellow", "green", "blue", "purple",
							"pink", "brown",  "black",  "white", NULL };

/* The colours of a class as directions. */
struct wheel {
	char *class_name;
	at_t colors_CP; /* kept */
	struct wheel *next;
};
struct clip_colors {
	struct clip_tower *tower;
	struct wheel *wheels;
};

int clip_colors_open(struct clip_colors **out, const char *dir, const char *dtype, enum at_device dev,
		     struct err *e)
{
	struct clip_colors *c = mem_zero(1, sizeof *c);
	enum at_dtype dt;

	if (at_dtype_parse(&dt, dtype, e) || clip_tower_open(&c->tower, dir, dt, dev, e)) {
		free(c);
		return -1;
	}
	*out = c;
	return 0;
}

int clip_colors_load(struct clip_colors *c, struct err *e)
{
	return clip_tower_load(c->tower, e);
}

void clip_colors_close(struct clip_colors *c)
{
	if (!c)
		return;
	for (struct wheel *w = c->wheels, *next; w; w = next) {
		next = w->next;
		at_free(w->colors_CP);
		free(w->class_name);
		free(w);
	}
	clip_tower_close(c->tower);
	free(c);
}

static at_t unit(at_t x_XP)
{
	return at_div(x_XP, at_sqrt(at_sum_dim(at_square(x_XP), 1, true)));
}

static int make_wheel(at_t *out_CP, const struct clip *m, const char *class_name, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *text[CLIP_COLORS * TEMPLATES];
	at_t x_XP, mean_CP = NULL;

	for (int i = 0; i < CLIP_COLORS; i++) {
		const char *color = clip_color_names[i];
		text[TEMPLATES * i] = mem_printf("a photo of a %s %s", color, class_name);
		text[TEMPLATES * i + 1] = mem_printf("a photo of a %s-colored %s", color, class_name);
		text[TEMPLATES * i + 2] = mem_printf("a photo of a %s object", color);
	}
	int ret = clip_text_features(m, true, (const char *const *)text, CLIP_COLORS * TEMPLATES, &x_XP, e);
	if (!ret)
		mean_CP =
		    at_mean_dim(at_view(x_XP, DIMS(CLIP_COLORS, TEMPLATES, at_size(x_XP, 1))), 1, false);
	for (int i = 0; i < CLIP_COLORS * TEMPLATES; i++)
		free(text[i]);
	if (!ret)
		*out_CP = at_keep(unit(mean_CP));
	at_end(s);
	return ret ? err_in(e, "the colors of a %s", class_name) : 0;
}

static int find_wheel(struct clip_colors *c, const char *class_name, at_t *out_CP, struct err *e)
{
	struct wheel *w = c->wheels;

	while (w && strcmp(w->class_name, class_name))
		w = w->next;
	if (!w) {
		at_t colors_CP = NULL;
		if (make_wheel(&colors_CP, &c->tower->clip, class_name, e))
			return -1;
		w = mem_alloc(sizeof *w);
		*w = (struct wheel) { mem_str(class_name), colors_CP, c->wheels };
		c->wheels = w;
	}
	*out_CP = w->colors_CP;
	return 0;
}

/* False for an empty box. */
static bool find_edges(const struct color_question *q, int edge[4])
{
	for (int i = 0; i < 4; i++) {
		int side = i % 2 ? q->h : q->w;
		/* A box may lie beyond the image, but not without bounds. */
		edge[i] = (int)fmin(fmax(nearbyint(q->box[i]), -side), 2 * side);
	}
	return edge[2] > edge[0] && edge[3] > edge[1];
}

uint8_t *clip_colors_crop(const struct color_question *q, int *w, int *h)
{
	int edge[4];

	if (!find_edges(q, edge))
		return NULL;
	*w = edge[2] - edge[0];
	*h = edge[3] - edge[1];
	uint8_t *out = mem_zero((size_t)*w * (size_t)*h, 3), *v = out;
	for (int y = edge[1]; y < edge[3]; y++) {
		for (int x = edge[0]; x < edge[2]; x++, v += 3) {
			size_t p = (size_t)y * (size_t)q->w + (size_t)x;
			if (x < 0 || x >= q->w || y < 0 || y >= q->h)
				continue;
			if (q->mask && !q->mask[p])
				memset(v, GREY, 3);
			else
				memcpy(v, q->rgb + 3 * p, 3);
		}
	}
	return out;
}

/* Objects that have something to be seen. */
static int ask_some(struct clip_colors *c, struct color_question *const *q, int n, struct err *e)
{
	const struct clip *m = &c->tower->clip;
	int64_t S = m->vision.image_size;
	at_t pixels_B3SS = at_empty(DIMS(n, 3, S, S), AT_F32, AT_CPU);

	for (int i = 0, w, h; i < n; i++) {
		uint8_t *crop = clip_colors_crop(q[i], &w, &h);
		clip_pixels(m, CLIP_CROP_ROUNDED, crop, w, h,
			    at_f32(pixels_B3SS) + (size_t)i * (size_t)(3 * S * S));
		free(crop);
	}
	at_t x_BP = clip_image_features(m, pixels_B3SS);
	for (int i = 0, best = 0; i < n; i++, best = 0) {
		at_t colors_CP;
		if (find_wheel(c, q[i]->class_name, &colors_CP, e))
			return -1;
		at_t cos_C1 = at_linear(at_narrow(x_BP, 0, i, 1), colors_CP, NULL);
		at_copy_out(at_mul(cos_C1, 100), q[i]->logit, AT_F32);
		for (int k = 1; k < CLIP_COLORS; k++)
			if (q[i]->logit[k] > q[i]->logit[best])
				best = k;
		*q[i]->color = clip_color_names[best];
	}
	return 0;
}

int clip_colors_ask(struct clip_colors *c, struct color_question *q, int n, struct err *e)
{
	int ret = 0;

	for (int at = 0; at < n && !ret;) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		struct color_question *some[BATCH];
		int k = 0;
		for (; at < n && k < BATCH; at++) {
			int edge[4];
			*q[at].color = NULL;
			if (find_edges(&q[at], edge))
				some[k++] = &q[at];
		}
		if (k)
			ret = ask_some(c, some, k, e);
		at_end(s);
	}
	return ret;
}
