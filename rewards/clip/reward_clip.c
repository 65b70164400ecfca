/*
 * reward_clip.c -- rewards that are an angle between an image and its prompt in CLIP's space: clipscore,
 * pickscore, hpsv2; and aesthetic, which looks at the image alone.
 */
#include "aten/safetensors.h"
#include "base/mem.h"
#include "models/text/tokenizer.h"
#include "rewards/clip/clip_tower.h"
#include "rewards/reward.h"
#include <stdlib.h>
#include <string.h>

/* ---- Configuration ------------------------------------------------------------------------------- */

struct clip_conf {
	char *model, *dtype, *device;
	char *head; /* aesthetic only */
	int64_t batch;
};

#define CLIP_FIELDS                                                                                          \
	FIELD(struct clip_conf, model, .init = NULL,                                                         \
	      .doc = "folder of the CLIP model (transformers or open_clip) and its tokenizer"),              \
	    FIELD(struct clip_conf, dtype, .init = "float32", .choices = at_weight_dtypes,                   \
		  .doc = "type of its weights"),                                                             \
	    FIELD(struct clip_conf, device, .init = "auto", .choices = at_device_names,                      \
		  .doc = "where it runs; auto: on the run's device, or on the CPU of a reward rank without " \
			 "a GPU"),                                                                           \
	    FIELD(struct clip_conf, batch, .init = "16", .min = 1, .max = 4096, .unit = "images",            \
		  .doc = "images scored at a time")

static const struct field clip_fields[] = { CLIP_FIELDS, FIELD_END };
static const struct field aesthetic_fields[] = {
	CLIP_FIELDS,
	FIELD(struct clip_conf, head, .init = NULL,
	      .doc = "safetensors file of the predictor: weight and bias of layers.0, .2, .4, .6 and .7"),
	FIELD_END
};

/* ---- Scoring ------------------------------------------------------------------------------------- */

#define HEAD 5 /* linear layers of the aesthetic predictor, with nothing between */

struct scorer {
	struct clip_tower *tower;
	int64_t batch;
	at_t head_w[HEAD], head_b[HEAD]; /* aesthetic only; kept, float32 */
};

static int open_scorer(void **state, const void *conf, struct err *e)
{
	const struct clip_conf *c = conf;
	struct scorer *s = mem_zero(1, sizeof *s);
	enum at_device dev;
	enum at_dtype dt;

	s->batch = c->batch;
	if (at_dtype_parse(&dt, c->dtype, e) || at_device_parse(&dev, c->device, e) ||
	    clip_tower_open(&s->tower, c->model, dt, dev, e)) {
		free(s);
		return -1;
	}
	*state = s;
	return 0;
}

static int load_scorer(void *state, struct err *e)
{
	struct scorer *s = state;
	struct at_scope *sc;

	if (clip_tower_load(s->tower, e))
		return -1;
	sc = at_begin(AT_NO_GRAD);
	for (int i = 0; i < HEAD && s->head_w[0]; i++) {
		at_set(&s->head_w[i], at_to(s->head_w[i], AT_F32, s->tower->device));
		at_set(&s->head_b[i], at_to(s->head_b[i], AT_F32, s->tower->device));
	}
	at_end(sc);
	return 0;
}

static void close_scorer(void *state)
{
	struct scorer *s = state;

	if (!s)
		return;
	for (int i = 0; i < HEAD; i++) {
		at_free(s->head_w[i]);
		at_free(s->head_b[i]);
	}
	clip_tower_close(s->tower);
	free(s);
}

static at_t image_features(const struct clip *m, enum clip_fit fit, const struct reward_item *item, int n)
{
	int64_t S = m->vision.image_size;
	at_t pixels_B3SS = at_empty(DIMS(n, 3, S, S), AT_F32, AT_CPU);

	for (int i = 0; i < n; i++)
		clip_pixels(m, fit, item[i].rgb, item[i].w, item[i].h,
			    at_f32(pixels_B3SS) + (size_t)i * (size_t)(3 * S * S));
	return clip_image_features(m, pixels_B3SS);
}

/* Each distinct prompt of the batch once: a group's images come one behind the other. */
static int text_features(const struct clip *m, bool as_open_clip, const struct reward_item *item, int n,
			 at_t *out_BP, struct err *e)
{
	const char **text = mem_zero((size_t)n, sizeof *text);
	int64_t *row = mem_zero((size_t)n, sizeof *row);
	at_t distinct_P;
	int k = 0, ret;

	for (int i = 0; i < n; i++) {
		if (!i || strcmp(item[i].prompt, item[i - 1].prompt))
			text[k++] = item[i].prompt;
		row[i] = k - 1;
	}
	ret = clip_text_features(m, as_open_clip, text, k, &distinct_P, e);
	if (!ret)
		*out_BP =
		    at_index_select(distinct_P, 0, at_to(at_from(row, DIMS(n), AT_I64), AT_I64, m->device));
	free(text);
	free(row);
	return ret;
}

static void put(struct reward_score *out, int n, at_t value_B)
{
	double *v = mem_zero((size_t)n, sizeof *v);

	at_copy_out(value_B, v, AT_F64);
	reward_put(out, n, v, "the model's");
	free(v);
}

/* How a reward looks at images: the way they are made square, what exp(logit_scale) * cos is divided by (0:
 * the cosine alone), and who cuts the prompt into tokens. */
struct look {
	enum clip_fit fit;
	double unit;
	bool as_open_clip;
};

/* One batch: the angle with the prompts, or with a head what that makes of the image. */
static int score_batch(const struct scorer *s, const struct look *look, const struct reward_item *item, int n,
		       struct reward_score *out, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct clip *m = &s->tower->clip;
	at_t text_BP, x_BP;
	int ret = 0;

	if (s->head_w[0]) {
		x_BP = image_features(m, look->fit, item, n);
		for (int i = 0; i < HEAD; i++)
			x_BP = at_linear(x_BP, s->head_w[i], s->head_b[i]);
		put(out, n, at_select(x_BP, 1, 0));
	} else if (!(ret = text_features(m, look->as_open_clip, item, n, &text_BP, e))) {
		x_BP = image_features(m, look->fit, item, n);
		at_t cos_B = at_sum_dim(at_mul(text_BP, x_BP), 1, false);

		put(out, n, look->unit > 0 ? at_mul(cos_B, m->logit_scale / look->unit) : cos_B);
	}
	at_end(sc);
	return ret;
}

static int score_all(struct scorer *s, struct look look, const struct reward_item *item, int n,
		     struct reward_score *out, struct err *e)
{
	int ret = 0;

	for (int at = 0; at < n && !ret; at += (int)s->batch)
		ret =
		    score_batch(s, &look, item + at, n - at < s->batch ? n - at : (int)s->batch, out + at, e);
	return ret;
}

static int score_clip(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	return score_all(state, (struct look) { CLIP_CROP, 100, false }, item, n, out, e);
}

static int score_pick(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	return score_all(state, (struct look) { CLIP_CROP, 26, false }, item, n, out, e);
}

static int score_hps(void *state, const struct reward_item *item, int n, struct reward_score *out,
		     struct err *e)
{
	return score_all(state, (struct look) { CLIP_PAD, 0, true }, item, n, out, e);
}

static int check_prompt(void *state, const char *prompt, const char *meta, struct err *e)
{
	const struct scorer *s = state;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t L = s->tower->clip.text.conf.max_position_embeddings;
	at_t ids_L = at_zeros(DIMS(L), AT_I64, AT_CPU);
	int ret = clip_tokenizer_encode(s->tower->clip.tokenizer, prompt, L, at_i64(ids_L), e);

	(void)meta;
	at_end(sc);
	return ret;
}

/* ---- Aesthetic ----------------------------------------------------------------------------------- */

static int open_head(struct scorer *s, const char *path, struct err *e)
{
	static const int number[HEAD] = { 0, 2, 4, 6,
					  7 }; /* dropouts stand between in the public predictor */
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t in = s->tower->clip.vision.projection_dim;
	struct st_file f;
	int ret = st_open(&f, path, e);

	if (ret) {
		at_end(sc);
		return -1;
	}
	for (int i = 0; i < HEAD && !ret; i++) {
		char *w = mem_printf("layers.%d.weight", number[i]),
		     *b = mem_printf("layers.%d.bias", number[i]);
		const struct st_entry *x = st_find(&f, w);
		int64_t out = x && x->shape.n == 2 && i < HEAD - 1 ? x->shape.d[0] : 1;
		at_t tw, tb;

		ret = st_take(&tw, &f, w, DIMS(out, in), e) || st_take(&tb, &f, b, DIMS(out), e) ? -1 : 0;
		if (!ret) {
			s->head_w[i] = at_keep(at_clone(at_to(tw, AT_F32, AT_CPU)));
			s->head_b[i] = at_keep(at_clone(at_to(tb, AT_F32, AT_CPU)));
		}
		in = out;
		free(w);
		free(b);
	}
	st_close(&f);
	at_end(sc);
	return ret;
}

static int open_aesthetic(void **state, const void *conf, struct err *e)
{
	const struct clip_conf *c = conf;
	void *s;

	if (open_scorer(&s, conf, e))
		return -1;
	if (open_head(s, c->head, e)) {
		close_scorer(s);
		return -1;
	}
	*state = s;
	return 0;
}

static int score_aesthetic(void *state, const struct reward_item *item, int n, struct reward_score *out,
			   struct err *e)
{
	return score_all(state, (struct look) { CLIP_CROP, 0, false }, item, n, out, e);
}

/* ---- The rewards --------------------------------------------------------------------------------- */

#define CLIP_REWARD(NAME, DOC, SCORE)                                                                        \
	{                                                                                                    \
		.abi = REWARD_ABI, .name = NAME, .doc = DOC, .fields = clip_fields,                          \
		.conf_size = sizeof(struct clip_conf), .open = open_scorer, .load = load_scorer,             \
		.check = check_prompt, .score = SCORE, .close = close_scorer                                 \
	}

const struct reward_type reward_clipscore =
    CLIP_REWARD("clipscore", "CLIP's logit of image and prompt, / 100 (ViT-L/14)", score_clip);
const struct reward_type reward_pickscore =
    CLIP_REWARD("pickscore", "PickScore's logit of image and prompt, / 26 (ViT-H/14)", score_pick);
const struct reward_type reward_hpsv2 =
    CLIP_REWARD("hpsv2", "HPSv2's cosine of image and prompt (ViT-H/14, v2.1's weights)", score_hps);

const struct reward_type reward_aesthetic = {
	.abi = REWARD_ABI,
	.name = "aesthetic",
	.doc = "LAION's aesthetic predictor over CLIP ViT-L/14: about 1 to 10",
	.fields = aesthetic_fields,
	.conf_size = sizeof(struct clip_conf),
	.open = open_aesthetic,
	.load = load_scorer,
	.score = score_aesthetic,
	.close = close_scorer,
};
