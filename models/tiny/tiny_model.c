#include "models/tiny/tiny_model.h"
#include "models/pipeline.h"
#include "models/sd3/sd3.h"
#include "base/file.h"
#include <stdlib.h>
#include <string.h>

static json_t *config_of(const struct tiny_conf *c)
{
	json_t *dual = json_array();

	for (int64_t i = 0; i < c->dual_layers; i++)
		json_array_append_new(dual, json_integer(i));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s}", "sample_size",
			 (json_int_t)c->side, "patch_size", (json_int_t)c->patch, "in_channels",
			 (json_int_t)c->channels, "out_channels", (json_int_t)c->channels, "num_layers",
			 (json_int_t)c->layers, "attention_head_dim", (json_int_t)c->head_dim,
			 "num_attention_heads", (json_int_t)c->heads, "joint_attention_dim",
			 (json_int_t)c->text_dim, "caption_projection_dim",
			 (json_int_t)(c->heads * c->head_dim), "pooled_projection_dim",
			 (json_int_t)c->text_dim, "pos_embed_max_size", (json_int_t)(c->side / c->patch),
			 "dual_attention_layers", dual, "qk_norm", c->qk_norm ? "rms_norm" : "");
}

int tiny_model_new(struct tiny_model *m, const struct tiny_conf *c, const char *const *words, int n_words,
		   uint64_t seed, struct err *e)
{
	json_t *config = config_of(c);
	int ret;

	*m = (struct tiny_model) { .conf = *c };
	ret = transformer_make(&m->transformer, &transformer_sd3, config, "transformer", seed, e) ||
		      word_encoder_new(&m->words, words, n_words, c->text_dim, c->text_length, seed + 1, e)
		  ? -1
		  : 0;
	json_decref(config);
	if (ret)
		tiny_model_release(m);
	return ret;
}

static int same_words(const struct word_encoder *w, const char *dir, struct err *e)
{
	struct word_encoder there;
	bool same;

	if (word_encoder_open(&there, dir, AT_F32, AT_CPU, e))
		return -1;
	same = there.n_words == w->n_words;
	for (int i = 0; same && i < w->n_words; i++)
		same = !strcmp(there.word[i], w->word[i]);
	word_encoder_release(&there);
	return same ? 0 : err_set(e, "%s: its words are not this world's", dir);
}

int tiny_model_load(struct tiny_model *m, const char *dir, struct err *e)
{
	char *transformer = file_join(dir, "transformer"), *vae = file_join(dir, "vae"),
	     *text = file_join(dir, "text_encoder");
	int ret =
	    same_words(&m->words, text, e) ||
		    nn_load_dir(m->transformer.net, transformer, NN_DIFFUSERS, NULL, AT_F32, AT_CPU, e) ||
		    nn_load_dir(&m->words.net, text, NN_TRANSFORMERS, NULL, AT_F32, AT_CPU, e) ||
		    linear_ae_open(&m->ae, vae, AT_F32, AT_CPU, e)
		? -1
		: 0;

	free(transformer);
	free(vae);
	free(text);
	return ret;
}

at_t tiny_model_velocity(const struct tiny_model *m, at_t x_BChw, at_t t_B, at_t ids_BL)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	struct cond c = { 0 };

	word_encoder_forward(&m->words, ids_BL, &c);
	return at_return(s, m->transformer.type->velocity(m->transformer.m, &(struct pass) { 0 }, x_BChw,
							  at_mul(t_B, 1000), &c, NULL));
}

int tiny_model_save(const struct tiny_model *m, const char *dir, struct err *e)
{
	char *transformer = file_join(dir, "transformer"), *vae = file_join(dir, "vae"),
	     *text = file_join(dir, "text_encoder");
	int ret = file_remove_tree(dir, e) || file_mkdirs(transformer, e) || file_mkdirs(vae, e) ||
			  file_mkdirs(text, e) ||
			  transformer_save(&m->transformer, NULL, transformer, AT_F32, e) ||
			  linear_ae_save(&m->ae, vae, e) || word_encoder_save(&m->words, text, e) ||
			  pipeline_write_index(dir, &family_sd3, word_text_encoder.class_name,
					       linear_autoencoder.class_name, m->conf.shift, e)
		      ? -1
		      : 0;

	free(transformer);
	free(vae);
	free(text);
	return ret;
}

void tiny_model_release(struct tiny_model *m)
{
	transformer_close(&m->transformer);
	word_encoder_release(&m->words);
	linear_ae_release(&m->ae);
	*m = (struct tiny_model) { 0 };
}
