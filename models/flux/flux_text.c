/*
 * flux_text.c -- FLUX.1's conditioning from its two text encoders, as FluxPipeline's encode_prompt makes it:
 * the sequence is T5's states of a prompt that is filled up to a fixed length, whose filling attends, and the
 * pooled vector is CLIP's at the end of the prompt, without a projection.
 *
 * Shapes: B prompts, L T5 tokens, E its width.
 */
#include "models/flux/flux.h"
#include "models/content_hash.h"
#include "models/text/clip_text.h"
#include "models/text/t5.h"
#include "models/text/tokenizer.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>

#define ENCODING 1 /* to be raised when the same files and prompts give other embeddings */

struct flux_text {
	struct clip_tokenizer *tokenizer;
	struct clip_text clip;
	struct t5_tokenizer *t5_tokenizer;
	struct t5 t5;
	int64_t length; /* of T5's prompts */
	enum at_dtype dtype;
	enum at_device device;
};

/* dev reads 512 tokens, schnell, which takes no guidance, 256. */
static int length_of(int64_t *length, const struct text_options *o, struct err *e)
{
	bool guided;

	if (flux_is_guided(&guided, o->dir, e))
		return -1;
	*length = o->text_length ? o->text_length : guided ? 512 : 256;
	return 0;
}

static void close_text(void *state)
{
	struct flux_text *t = state;

	clip_tokenizer_close(t->tokenizer);
	clip_text_release(&t->clip);
	t5_tokenizer_close(t->t5_tokenizer);
	t5_release(&t->t5);
	free(t);
}

static int open_parts(struct flux_text *t, const struct text_options *o, struct err *e)
{
	char *tokenizer = file_join(o->dir, "tokenizer"), *clip = file_join(o->dir, "text_encoder");
	char *tokenizer_2 = file_join(o->dir, "tokenizer_2"), *t5 = file_join(o->dir, "text_encoder_2");
	/* T5 was trained in bfloat16; its states leave float16's range */
	enum at_dtype dt = o->dtype == AT_F16 ? AT_BF16 : o->dtype;
	int ret = clip_tokenizer_open(&t->tokenizer, tokenizer, e) ||
			  clip_text_open(&t->clip, clip, false, o->dtype, o->device, e) ||
			  t5_tokenizer_open(&t->t5_tokenizer, tokenizer_2, e) ||
			  t5_open(&t->t5, t5, dt, o->device, e)
		      ? -1
		      : 0;

	free(tokenizer);
	free(clip);
	free(tokenizer_2);
	free(t5);
	return ret;
}

static int open_text(void **state, const struct text_options *o, struct err *e)
{
	struct flux_text *t = mem_zero(1, sizeof *t);
	int ret;

	t->dtype = o->dtype;
	t->device = o->device;
	ret = length_of(&t->length, o, e) || open_parts(t, o, e) ? -1 : 0;
	if (!ret && o->width && t->t5.conf.d_model != o->width)
		ret = err_set(e,
			      "%s: text_encoder_2 has d_model %lld, the transformer joint_attention_dim %lld",
			      o->dir, (long long)t->t5.conf.d_model, (long long)o->width);
	if (ret)
		close_text(t);
	else
		*state = t;
	return ret;
}

static int hash_text(uint64_t *hash, const struct text_options *o, struct err *e)
{
	int64_t length;

	if (length_of(&length, o, e))
		return -1;
	int64_t how[] = { ENCODING, length, (int64_t)o->dtype };
	*hash = file_hash(how, sizeof how, 0);
	return content_hash_encoder(hash, o->dir, "text_encoder", "tokenizer", o->hashes, e) ||
		       content_hash_encoder(hash, o->dir, "text_encoder_2", "tokenizer_2", o->hashes, e)
		   ? -1
		   : 0;
}

static int tokenize_text(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			 struct err *e)
{
	const struct flux_text *t = state;
	const int64_t length[2] = { t->clip.conf.max_position_embeddings, t->length };
	const int64_t words[2] = { t->clip.conf.vocab_size, t->t5.conf.vocab_size };

	ids_BL[2] = NULL;
	for (int i = 0; i < 2; i++) {
		at_t ids = at_zeros(DIMS(n, length[i]), AT_I64, AT_CPU);

		for (int k = 0; k < n; k++) {
			int64_t *out = at_i64(ids) + k * length[i];

			if (i ? t5_tokenizer_encode(t->t5_tokenizer, prompts[k], length[i], out, e)
			      : clip_tokenizer_encode(t->tokenizer, prompts[k], length[i], out, e))
				return err_in(e, "prompt %d ('%.60s')", k + 1, prompts[k]);
		}
		/* a vocabulary larger than the table of embeddings must not read beyond it */
		if (at_item(at_max(ids)) >= (double)words[i])
			return err_set(e, "tokenizer%s knows more tokens than its encoder's vocab_size %lld",
				       i ? "_2" : "", (long long)words[i]);
		ids_BL[i] = at_to(ids, AT_I64, t->device);
	}
	return 0;
}

static int encode_text(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	const struct flux_text *t = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t ids[TEXT_TOKENIZERS], unused_BLE, pooled_BP;

	if (tokenize_text(state, prompts, n, ids, e)) {
		at_end(s);
		return -1;
	}
	clip_text_forward(&t->clip, ids[0], &unused_BLE, &pooled_BP);
	*out = (struct cond) { 0 };
	cond_add(out, COND_TEXT, at_cast(t5_forward(&t->t5, ids[1]), t->dtype), NULL);
	cond_add(out, COND_POOLED, pooled_BP, NULL);
	cond_escape(s, out);
	at_end(s);
	return 0;
}

const struct text_encoder_type flux_text_encoder = {
	.class_name = "CLIPTextModel",
	.open = open_text,
	.hash = hash_text,
	.encode = encode_text,
	.tokenize = tokenize_text,
	.close = close_text,
};
