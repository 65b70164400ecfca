/*
 * detector_script.c -- a detection network as GenEval's eyes: a TorchScript file or an AOTInductor package.
 *
 * forward(images (N, 3, H, W) float32 in [0, 1], as they are: resizing and normalising are the module's)
 * returns N lists of Q candidates as a tuple:
 *
 * boxes (N, Q, 4): x0, y0, x1, y1 in the image's pixels, x1 and y1 behind the last one
 *
 * classes (N, Q): index of the class, from 0
 *
 * scores (N, Q): confidence; 0 fills a shorter list up
 *
 * masks (N, Q, H, W): what is above 0.5 belongs to the object; may be absent
 *
 * Shapes: N images, Q candidates, H, W pixels.
 */
#include "aten/script.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/geneval/clip_colors.h"
#include "rewards/geneval/detector.h"
#include "rewards/image_batch.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const char *const coco[] = {
	"person",
	"bicycle",
	"car",
	"motorcycle",
	"airplane",
	"bus",
	"train",
	"truck",
	"boat",
	"traffic light",
	"fire hydrant",
	"stop sign",
	"parking meter",
	"bench",
	"bird",
	"cat",
	"dog",
	"horse",
	"sheep",
	"cow",
	"elephant",
	"bear",
	"zebra",
	"giraffe",
	"backpack",
	"umbrella",
	"handbag",
	"tie",
	"suitcase",
	"frisbee",
	"skis",
	"snowboard",
	"sports ball",
	"kite",
	"baseball bat",
	"baseball glove",
	"skateboard",
	"surfboard",
	"tennis racket",
	"bottle",
	"wine glass",
	"cup",
	"fork",
	"knife",
	"spoon",
	"bowl",
	"banana",
	"apple",
	"sandwich",
	"orange",
	"broccoli",
	"carrot",
	"hot dog",
	"pizza",
	"donut",
	"cake",
	"chair",
	"couch",
	"potted plant",
	"bed",
	"dining table",
	"toilet",
	"tv",
	"laptop",
	"computer mouse",
	"tv remote",
	"computer keyboard",
	"cell phone",
	"microwave",
	"oven",
	"toaster",
	"sink",
	"refrigerator",
	"book",
	"clock",
	"vase",
	"scissors",
	"teddy bear",
	"hair drier",
	"toothbrush",
	NULL,
};
static const char *const no_colors[] = { NULL };

enum output { BOXES, CLASSES, SCORES, MASKS, OUTPUTS };

struct watcher {
	const struct geneval_conf *conf;
	struct at_script *script;
	enum at_device device;
	char *names_text; /* of the file, cut into lines; NULL: COCO's */
	const char **names;
	int n_names;
	struct clip_colors *colors; /* NULL: no CLIP */
	pthread_mutex_t lock;       /* one batch at a time: a detector's activations are large */
};

/* ---- opening ---- */

static int read_names(struct watcher *w, const char *path, struct err *e)
{
	size_t size;
	int cap = 0;
	char *rest;

	if (file_read(&w->names_text, &size, path, e))
		return -1;
	for (char *line = strtok_r(w->names_text, "\r\n", &rest); line;
	     line = strtok_r(NULL, "\r\n", &rest)) {
		MEM_PUSH(w->names, w->n_names, cap) = line;
		for (int i = 0; i < w->n_names - 1; i++)
			if (!strcmp(w->names[i], line))
				return err_set(e, "%s: '%s' is there twice", path, line);
	}
	if (!w->n_names)
		return err_set(e, "%s: no names of classes, one a line, in this file", path);
	MEM_PUSH(w->names, w->n_names, cap) = NULL;
	return 0;
}

static void free_watcher(struct watcher *w)
{
	at_script_close(w->script);
	clip_colors_close(w->colors);
	free(w->names_text);
	free(w->names);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static int open_watcher(struct watcher *w, struct err *e)
{
	const struct geneval_conf *c = w->conf;

	if (!*c->module)
		return err_set(e,
			       "it needs `module`, a network's file (tools/export_mask2former.py makes one)");
	if (at_device_parse(&w->device, c->device, e) || (*c->classes && read_names(w, c->classes, e)) ||
	    at_script_check(c->module, e))
		return -1;
	return *c->clip ? clip_colors_open(&w->colors, c->clip, c->clip_dtype, w->device, e) : 0;
}

static int script_open(struct detector *d, const struct geneval_conf *conf, struct err *e)
{
	struct watcher *w = mem_zero(1, sizeof *w);

	w->conf = conf;
	pthread_mutex_init(&w->lock, NULL);
	if (open_watcher(w, e)) {
		free_watcher(w);
		return -1;
	}
	d->state = w;
	d->classes = w->names_text ? w->names : coco;
	d->colors = w->colors ? clip_color_names : no_colors;
	for (w->n_names = 0; d->classes[w->n_names];)
		w->n_names++;
	return 0;
}

static int script_load(struct detector *d, struct err *e)
{
	struct watcher *w = d->state;

	return at_script_open(&w->script, w->conf->module, w->device, e) ||
		       (w->colors && clip_colors_load(w->colors, e))
		   ? -1
		   : 0;
}

static void script_close(struct detector *d)
{
	free_watcher(d->state);
}

/* ---- what the module says ---- */

struct answer {
	at_t masks_NQHW; /* NULL: none */
	int64_t Q;
	double *box, *class, *score; /* of all images' candidates */
};

static void free_answer(struct answer *a)
{
	free(a->box);
	free(a->class);
	free(a->score);
}

static int check_shape(const struct geneval_conf *c, const char *what, at_t x, struct at_dims want,
		       struct err *e)
{
	struct text sizes = { 0 };

	if (at_shape_is(x, want))
		return 0;
	for (int i = 0; i < want.n; i++)
		text_printf(&sizes, "%s%lld", i ? ", " : "", (long long)want.d[i]);
	err_set(e, "%s: its %s are %s, wanted [%s]", c->module, what, at_describe(x), sizes.s);
	text_free(&sizes);
	return -1;
}

static double *take(at_t x)
{
	double *v = mem_alloc((size_t)at_numel(x) * sizeof *v);

	at_copy_out(x, v, AT_F64);
	return v;
}

static int check_candidate(const struct watcher *w, const struct answer *a, int64_t i, struct err *e)
{
	const double *box = a->box + 4 * i;

	if (!isfinite(a->score[i]))
		return err_set(e, "%s: a score is not finite", w->conf->module);
	if (a->score[i] <= 0)
		return 0;
	for (int k = 0; k < 4; k++)
		if (!isfinite(box[k]))
			return err_set(e, "%s: a box is not finite", w->conf->module);
	if (box[0] > box[2] || box[1] > box[3])
		return err_set(e, "%s: a box of (%g, %g, %g, %g): wanted x0, y0, x1, y1", w->conf->module,
			       box[0], box[1], box[2], box[3]);
	if (!(a->class[i] >= 0 && a->class[i] < w -> n_names && a -> class[i] == floor(a->class[i])))
		return err_set(e, "%s: a class of index %g, but there are %d%s", w->conf->module, a->class[i],
			       w -> n_names,
			       w -> names_text ? "" : " (of COCO; others are named by `classes`)");
	return 0;
}

/* out is the caller's to free, after an error too. */
static int ask(struct answer *out, const struct watcher *w, const struct reward_item *item, int n,
	       struct err *e)
{
	at_t in_N3HW = at_to(image_batch_tensor(item, n, 0), AT_F32, w->device), x[OUTPUTS];
	int count;

	if (at_script_run_all(w->script, 1, &in_N3HW, x, OUTPUTS, &count, e))
		return -1;
	if (count <= SCORES)
		return err_set(e, "%s: it returns %d tensors, wanted boxes, classes, scores and masks",
			       w->conf->module, count);
	int64_t Q = out->Q = at_ndim(x[SCORES]) == 2 ? at_size(x[SCORES], 1) : 0;
	if (check_shape(w->conf, "scores", x[SCORES], DIMS(n, Q), e) ||
	    check_shape(w->conf, "boxes", x[BOXES], DIMS(n, Q, 4), e) ||
	    check_shape(w->conf, "classes", x[CLASSES], DIMS(n, Q), e) ||
	    (count > MASKS && check_shape(w->conf, "masks", x[MASKS], DIMS(n, Q, item->h, item->w), e)))
		return -1;
	out->masks_NQHW = count > MASKS ? x[MASKS] : NULL;
	out->box = take(x[BOXES]);
	out->class = take(x[CLASSES]);
	out->score = take(x[SCORES]);
	for (int64_t i = 0; i < n * Q; i++)
		if (check_candidate(w, out, i, e))
			return -1;
	return 0;
}

static void select_objects(struct detection *out, const struct watcher *w, const struct answer *a, int image,
			   const char *const *classes, const json_t *meta)
{
	const struct geneval_limits limits = { w->conf->threshold, w->conf->counting_threshold,
					       w->conf->max_overlap };

	out->v = mem_zero((size_t)a->Q, sizeof *out->v);
	for (int q = 0; q < a->Q; q++) {
		int64_t i = image * a->Q + q;
		if (a->score[i] <= 0)
			continue;
		struct geneval_object *o = &out->v[out->n++];
		*o = (struct geneval_object) { .class_name = classes[(int)a->class[i]],
					       .score = a->score[i],
					       .candidate = q };
		memcpy(o->box, a->box + 4 * i, sizeof o->box);
	}
	out->n = geneval_select(out->v, out->n, meta, &limits);
}

/* ---- colours ---- */

/* A mask as bytes, of the innermost scope. */
static const uint8_t *mask_of(const struct answer *a, int image, int candidate)
{
	if (!a->masks_NQHW)
		return NULL;
	at_t mask_HW = at_select(at_select(a->masks_NQHW, 0, image), 0, candidate);
	return at_data(at_contiguous(at_to(at_ge(mask_HW, 0.5), AT_U8, AT_CPU)));
}

/* The best of each class whose colour a clause asks for: no more than it asks for. */
static int color_objects(struct watcher *w, const struct reward_item *item, json_t *const *meta, int n,
			 struct detection *found, const struct answer *a, struct err *e)
{
	struct color_question *q = NULL;
	int count = 0, cap = 0;

	for (int i = 0; i < n; i++) {
		const char *class_name = NULL;
		for (int k = 0, rank = 0; k < found[i].n; k++, rank++) {
			struct geneval_object *o = &found[i].v[k];
			if (class_name != o->class_name) /* the classes stand one behind the other */
				rank = 0;
			class_name = o->class_name;
			if (rank >= geneval_colored(meta[i], class_name))
				continue;
			MEM_PUSH(q, count, cap) =
			    (struct color_question) { .rgb = item[i].rgb,
						      .mask = mask_of(a, i, o->candidate),
						      .w = item[i].w,
						      .h = item[i].h,
						      .box = o->box,
						      .class_name = class_name,
						      .color = &o->color };
		}
	}
	int ret = clip_colors_ask(w->colors, q, count, e);
	free(q);
	return ret;
}

/* Images of one size. */
static int detect_some(struct detector *d, const struct reward_item *item, json_t *const *meta, int n,
		       struct detection *out, struct err *e)
{
	struct watcher *w = d->state;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct answer a = { 0 };
	int ret = ask(&a, w, item, n, e);

	for (int i = 0; i < n && !ret; i++)
		select_objects(&out[i], w, &a, i, d->classes, meta[i]);
	if (!ret && w->colors)
		ret = color_objects(w, item, meta, n, out, &a, e);
	free_answer(&a);
	at_end(s);
	return ret;
}

static int script_detect(struct detector *d, const struct reward_item *item, json_t *const *meta, int n,
			 struct detection *out, struct err *e)
{
	struct watcher *w = d->state;
	int ret = 0;

	pthread_mutex_lock(&w->lock);
	for (int at = 0, k; at < n && !ret; at += k) {
		k = images_alike(item + at, n - at, (int)w->conf->batch);
		ret = detect_some(d, item + at, meta + at, k, out + at, e);
	}
	pthread_mutex_unlock(&w->lock);
	return ret;
}

const struct detector_type detector_script = {
	.name = "script",
	.doc = "A detection network from TorchScript or AOTInductor",
	.open = script_open,
	.load = script_load,
	.detect = script_detect,
	.close = script_close,
};
