/*
 * sd3_text.c -- Stable Diffusion 3's conditioning from its three text encoders, as StableDiffusion3Pipeline's
 * encode_prompt makes it.
 *
 * Sequence: CLIP-L's and CLIP-G's penultimate states side by side, filled up with zeros to the transformer's
 * width; behind them T5's states.  Pooled: both projections side by side.  A pipeline without T5 has zeros in
 * its place.
 *
 * Shapes: B prompts, L CLIP tokens (77), M T5 tokens, E transformer's text width.
 */
#include "models/text/clip_text.h"
#include "models/content_hash.h"
#include "models/encoder.h"
#include "models/text/t5.h"
#include "models/text/tokenizer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

#define T5_LENGTH 256 /* of the stock pipeline */
#define ENCODING  1   /* to be raised when the same files and prompts give other embeddings */

struct sd3_text {
	struct clip_tokenizer *tokenizer[2];
	struct clip_text clip[2];
	struct t5_tokenizer *t5_tokenizer;
	struct t5 t5;
	bool has_t5;
	int64_t t5_length, width;
	enum at_dtype dtype;
	enum at_device device;
};

static int64_t length_of(const struct text_options *o)
{
	return o->text_length ? o->text_length : T5_LENGTH;
}

/* ---- Files --------------------------------------------------------------------------------------- */

/* A pipeline may do without T5: model_index.json then says [null, null]; a directory without an index, no
 * folder. */
static int find_t5(struct sd3_text *t, const char *dir, struct err *e)
{
	char *index = file_join(dir, "model_index.json"), *folder = file_join(dir, "text_encoder_3");
	int ret = 0;

	if (file_exists(index)) {
		json_t *o = json_read(index, e);
		ret = o ? 0 : -1;
		t->has_t5 = json_is_string(json_array_get(json_object_get(o, "text_encoder_3"), 1));
		json_decref(o);
	} else {
		t->has_t5 = file_is_dir(folder);
	}
	free(index);
	free(folder);
	return ret;
}

static int open_clip(struct sd3_text *t, int i, const struct text_options *o, struct err *e)
{
	char *tokenizer = file_join(o->dir, i ? "tokenizer_2" : "tokenizer");
	char *encoder = file_join(o->dir, i ? "text_encoder_2" : "text_encoder");
	int ret = clip_tokenizer_open(&t->tokenizer[i], tokenizer, e) ||
			  clip_text_open(&t->clip[i], encoder, true, o->dtype, o->device, e)
		      ? -1
		      : 0;

	free(tokenizer);
	free(encoder);
	return ret;
}

static int open_t5(struct sd3_text *t, const struct text_options *o, struct err *e)
{
	char *tokenizer = file_join(o->dir, "tokenizer_3"), *encoder = file_join(o->dir, "text_encoder_3");
	/* T5 was trained in bfloat16; its states leave float16's range */
	enum at_dtype dt = o->dtype == AT_F16 ? AT_BF16 : o->dtype;
	int ret =
	    t5_tokenizer_open(&t->t5_tokenizer, tokenizer, e) || t5_open(&t->t5, encoder, dt, o->device, e)
		? -1
		: 0;

	free(tokenizer);
	free(encoder);
	return ret;
}

static int check_fit(const struct sd3_text *t, const char *dir, struct err *e)
{
	int64_t both = t->clip[0].layers.width + t->clip[1].layers.width;

	if (t->clip[0].conf.max_position_embeddings != t->clip[1].conf.max_position_embeddings)
		return err_set(e, "%s: the two CLIP encoders read %lld and %lld tokens", dir,
			       (long long)t->clip[0].conf.max_position_embeddings,
			       (long long)t->clip[1].conf.max_position_embeddings);
	if (t->has_t5 && t->t5.conf.d_model != t->width)
		return err_set(
		    e, "%s: text_encoder_3 has d_model %lld, the transformer joint_attention_dim %lld", dir,
		    (long long)t->t5.conf.d_model, (long long)t->width);
	if (both > t->width)
		return err_set(e, "%s: the CLIP encoders' widths add up to %lld, joint_attention_dim is %lld",
			       dir, (long long)both, (long long)t->width);
	return 0;
}

static void close_text(void *state)
{
	struct sd3_text *t = state;

	for (int i = 0; i < 2; i++) {
		clip_tokenizer_close(t->tokenizer[i]);
		clip_text_release(&t->clip[i]);
	}
	t5_tokenizer_close(t->t5_tokenizer);
	t5_release(&t->t5);
	free(t);
}

static int hash_text(uint64_t *hash, const struct text_options *o, struct err *e)
{
	static const char *const encoder[] = { "text_encoder", "text_encoder_2", "text_encoder_3" };
	static const char *const tokenizer[] = { "tokenizer", "tokenizer_2", "tokenizer_3" };
	struct sd3_text t = { 0 };
	int64_t how[] = { ENCODING, length_of(o), o->width, (int64_t)o->dtype };
	int ret = find_t5(&t, o->dir, e);

	*hash = file_hash(how, sizeof how, 0);
	for (int i = 0; i < (t.has_t5 ? 3 : 2) && !ret; i++)
		ret = content_hash_encoder(hash, o->dir, encoder[i], tokenizer[i], o->hashes, e);
	return ret;
}

static int open_text(void **state, const struct text_options *o, struct err *e)
{
	struct sd3_text *t = mem_zero(1, sizeof *t);
	int ret;

	t->t5_length = length_of(o);
	t->dtype = o->dtype;
	t->device = o->device;
	ret = find_t5(t, o->dir, e) || open_clip(t, 0, o, e) || open_clip(t, 1, o, e) ||
		      (t->has_t5 && open_t5(t, o, e))
		  ? -1
		  : 0;
	if (!ret) {
		t->width = o->width ? o->width : t->t5.conf.d_model;
		ret = check_fit(t, o->dir, e);
	}
	if (ret)
		close_text(t);
	else
		*state = t;
	return ret;
}

/* ---- Use ----------------------------------------------------------------------------------------- */

static int tokenize_text(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			 struct err *e)
{
	const struct sd3_text *t = state;
	int64_t length[3] = { t->clip[0].conf.max_position_embeddings,
			      t->clip[1].conf.max_position_embeddings, t->t5_length };

	for (int i = 0; i < 3; i++) {
		ids_BL[i] = NULL;
		if (i == 2 && !t->has_t5)
			continue;
		at_t ids = at_zeros(DIMS(n, length[i]), AT_I64, AT_CPU);
		for (int k = 0; k < n; k++) {
			int64_t *out = at_i64(ids) + k * length[i];
			if (i < 2 ? clip_tokenizer_encode(t->tokenizer[i], prompts[k], length[i], out, e)
				  : t5_tokenizer_encode(t->t5_tokenizer, prompts[k], length[i], out, e))
				return err_in(e, "prompt %d ('%.60s')", k + 1, prompts[k]);
		}
		ids_BL[i] = at_to(ids, AT_I64, t->device);
	}
	return 0;
}

/* A vocabulary larger than the table of embeddings must not read beyond it. */
static int check_ids(const at_t ids_BL[3], const struct sd3_text *t, struct err *e)
{
	const int64_t words[3] = { t->clip[0].conf.vocab_size, t->clip[1].conf.vocab_size,
				   t->t5.conf.vocab_size };

	for (int i = 0; i < 3; i++)
		if (ids_BL[i] && at_item(at_max(ids_BL[i])) >= (double)words[i])
			return err_set(e, "tokenizer%s knows more tokens than its encoder's vocab_size %lld",
				       i == 0   ? ""
				       : i == 1 ? "_2"
						: "_3",
				       (long long)words[i]);
	return 0;
}

static int encode_text(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	const struct sd3_text *t = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t ids[TEXT_TOKENIZERS], states[2], pooled[2], clip_BLE, t5_BME;

	if (tokenize_text(state, prompts, n, ids, e) || check_ids(ids, t, e)) {
		at_end(s);
		return -1;
	}
	for (int i = 0; i < 2; i++)
		clip_text_forward(&t->clip[i], ids[i], &states[i], &pooled[i]);
	clip_BLE = at_cat2(states[0], states[1], -1);
	clip_BLE = at_pad(clip_BLE, DIMS(0, t->width - at_size(clip_BLE, -1)), 0);
	t5_BME = t->has_t5 ? at_cast(t5_forward(&t->t5, ids[2]), t->dtype)
			   : at_zeros(DIMS(n, t->t5_length, t->width), t->dtype, t->device);
	*out = (struct cond) { 0 };
	cond_add(out, COND_TEXT, at_cat2(clip_BLE, t5_BME, 1), NULL);
	cond_add(out, COND_POOLED, at_cat2(pooled[0], pooled[1], -1), NULL);
	cond_escape(s, out);
	at_end(s);
	return 0;
}

const struct text_encoder_type sd3_text_encoder = {
	.class_name = "CLIPTextModelWithProjection",
	.open = open_text,
	.hash = hash_text,
	.encode = encode_text,
	.tokenize = tokenize_text,
	.close = close_text,
};
