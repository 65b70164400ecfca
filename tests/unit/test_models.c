/* Transformer folders, the word encoder, the linear autoencoder, and a pipeline made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/pipeline.h"
#include "models/sd3/mmdit.h"
#include "models/sd3/sd3.h"
#include "tests/unit/handles.h"

static char dir[] = "/tmp/test_models.XXXXXX";

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

static void says(const struct err *e, const char *part)
{
	if (!strstr(e->msg, part))
		fail_msg("'%s' does not say '%s'", e->msg, part);
}

static void must(int failed, const struct err *e)
{
	if (failed)
		fail_msg("%s", e->msg);
}

/* ---- The transformer's folder ---------------------------------------------------------------- */

/* Its configuration, for the caller to free. */
static json_t *small(void)
{
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:[i]}", "sample_size",
			 2, "patch_size", 1, "in_channels", 3, "out_channels", 3, "num_layers", 2,
			 "attention_head_dim", 4, "num_attention_heads", 2, "joint_attention_dim", 5,
			 "caption_projection_dim", 8, "pooled_projection_dim", 5, "pos_embed_max_size", 4,
			 "qk_norm", "rms_norm", "dual_attention_layers", 1);
}

static void make_small(struct transformer *t)
{
	json_t *o = small();
	struct err e = { "" };

	must(transformer_make(t, &transformer_sd3, o, "small", 4, &e), &e);
	json_decref(o);
}

static int open_at(struct transformer *t, const char *path, struct err *e)
{
	return transformer_open(t, &transformer_sd3, path, AT_F32, AT_CPU, e);
}

static void made_saves_and_opens(void **state)
{
	char *path = file_join(dir, "saved");
	struct transformer a, b;
	struct err e = { "" };

	(void)state;
	make_small(&a);
	must(transformer_save(&a, NULL, path, AT_F32, &e) || open_at(&b, path, &e), &e);
	assert_int_equal(a.net->n_param, b.net->n_param);
	for (int i = 0; i < a.net->n_param; i++)
		assert_true(at_equal(*a.net->param[i].tensor, *b.net->param[i].tensor));
	const struct mmdit *m = b.m;
	assert_true(m->block[1].dual && m->block[1].last && !m->block[0].dual && !m->block[0].last);
	assert_null(m->block[1].text.up.w_OI);
	assert_true(m->conf.qk_norm);
	transformer_close(&a);
	transformer_close(&b);
	free(path);
}

static void refuses(json_t *config, const char *message)
{
	struct transformer t;
	struct err e = { "" };

	assert_int_equal(transformer_make(&t, &transformer_sd3, config, "small", 0, &e), -1);
	says(&e, message);
	assert_null(t.type);
	json_decref(config);
}

static void make_refuses(void **state)
{
	json_t *o = small();

	(void)state;
	json_object_set_new(o, "caption_projection_dim", json_integer(9));
	refuses(o, "small: caption_projection_dim = 9: must be num_attention_heads * attention_head_dim = 8");
	o = small();
	json_object_set_new(o, "attention_head_dim", json_integer(3));
	json_object_set_new(o, "caption_projection_dim", json_integer(6));
	refuses(o, "width of 6");
	o = small();
	json_object_set_new(o, "num_layers", json_integer(0));
	refuses(o, "num_layers = 0: must be 1 to");
	o = small();
	json_object_set_new(o, "patch_size", json_integer(3));
	refuses(o, "sample_size is below patch_size");
}

/* A saved transformer whose config.json has `key` replaced (NULL: removed). */
static void config_says(const char *key, json_t *value, const char *message)
{
	char *path = file_join(dir, "config"), *config = file_join(path, "config.json");
	struct transformer t;
	struct err e = { "" };

	make_small(&t);
	must(transformer_save(&t, NULL, path, AT_F32, &e), &e);
	transformer_close(&t);
	json_t *o = json_read(config, &e);
	assert_non_null(o);
	if (value)
		json_object_set_new(o, key, value);
	else
		json_object_del(o, key);
	must(json_write(config, o, &e), &e);
	json_decref(o);
	if (message) {
		assert_int_equal(open_at(&t, path, &e), -1);
		says(&e, config);
		says(&e, message);
		assert_null(t.type);
	} else {
		must(open_at(&t, path, &e), &e);
		transformer_close(&t);
	}
	free(path);
	free(config);
}

static void config_errors(void **state)
{
	static const char *const required[] = {
		"sample_size",           "patch_size",          "in_channels",
		"out_channels",          "num_layers",          "attention_head_dim",
		"num_attention_heads",   "joint_attention_dim", "caption_projection_dim",
		"pooled_projection_dim", "pos_embed_max_size"
	};

	(void)state;
	for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
		char *message = mem_printf("%s is missing", required[i]);

		config_says(required[i], NULL, message);
		config_says(required[i], json_string("2"), required[i]);
		config_says(required[i], json_integer(-1), required[i]);
		config_says(required[i], json_integer(INT64_MAX), required[i]);
		free(message);
	}
	config_says("pos_embed_max_size", json_null(), "pos_embed_max_size");
	config_says("qk_norm", json_string("layer_norm"), "qk_norm = \"layer_norm\": only \"rms_norm\"");
	config_says("qk_norm", json_true(), "qk_norm");
	config_says("dual_attention_layers", json_integer(1), "dual_attention_layers must be a list");
	config_says("dual_attention_layers", json_pack("[s]", "1"), "dual_attention_layers[0]");
	config_says("dual_attention_layers", json_pack("[i,i]", 1, 2), "names layer 2 of 2");
	config_says("out_channels", json_null(), NULL);
	config_says("_diffusers_version", json_string("1.0"), NULL);
	config_says("some_new_key", json_pack("{s:i}", "a", 1), "'some_new_key' is set");
}

/* The config decides which tensors there must be. */
static void weights_errors(void **state)
{
	char *path = file_join(dir, "weights"), *config = file_join(path, "config.json");
	char *weights = file_join(path, "diffusion_pytorch_model.safetensors");
	struct transformer t;
	struct err e = { "" };

	(void)state;
	make_small(&t);
	must(transformer_save(&t, NULL, path, AT_F32, &e), &e);
	transformer_close(&t);
	json_t *o = json_read(config, &e);
	json_object_set_new(o, "num_layers", json_integer(3)); /* block 1 is no longer the last */
	must(json_write(config, o, &e), &e);
	assert_int_equal(open_at(&t, path, &e), -1);
	says(&e, weights);
	says(&e, "transformer_blocks.1.norm1_context.linear.weight");
	json_object_set_new(o, "num_layers", json_integer(2));
	json_object_set_new(o, "qk_norm", json_null());
	must(json_write(config, o, &e), &e);
	json_decref(o);
	assert_int_equal(open_at(&t, path, &e), -1);
	says(&e, weights);
	says(&e, "norm_added_k.weight' does not belong to this model");
	must(file_write(weights, "", 0, &e), &e);
	assert_int_equal(open_at(&t, path, &e), -1);
	says(&e, weights);
	free(path);
	free(config);
	free(weights);
}

/* ---- WordTextEncoder ------------------------------------------------------------------------- */

static const char *const words[] = { "a", "photo", "of", "circle", "circles" };

static void tokens(void **state)
{
	struct word_encoder w;
	struct err e = { "" };
	int64_t ids[6];

	(void)state;
	must(word_encoder_new(&w, words, 5, 3, 6, 1, &e), &e);
	assert_int_equal(w.n_words, 6);
	assert_string_equal(w.word[0], "<pad>");
	must(word_encoder_tokenize(&w, " A photo\tof  a\nCIRCLE ", ids, &e), &e);
	for (int i = 0; i < 6; i++)
		assert_int_equal(ids[i], ((int64_t[]) { 1, 2, 3, 1, 4, 0 })[i]);
	must(word_encoder_tokenize(&w, "", ids, &e), &e);
	assert_int_equal(ids[0] | ids[5], 0);
	must(word_encoder_tokenize(&w, "a a a a a a", ids, &e), &e);
	assert_int_equal(ids[5], 1);

	assert_int_equal(word_encoder_tokenize(&w, "a a a a a a photo", ids, &e), -1);
	says(&e, "prompt 'a a a a a a photo'");
	says(&e, "more than 6 words");
	assert_int_equal(word_encoder_tokenize(&w, "a photo of a dragon", ids, &e), -1);
	says(&e, "word 'dragon' is not in the vocabulary");
	assert_int_equal(word_encoder_tokenize(&w, "a phtoo", ids, &e), -1);
	says(&e, "did you mean 'photo'?");
	assert_int_equal(word_encoder_tokenize(&w, "a <pad>", ids, &e), -1);
	says(&e, "'<pad>'");
	word_encoder_release(&w);
}

static void vocabulary_errors(void **state)
{
	struct word_encoder w;
	struct err e = { "" };

	(void)state;
	assert_int_equal(word_encoder_new(&w, (const char *const[]) { "a", "b", "a" }, 3, 3, 6, 1, &e), -1);
	says(&e, "word 'a' is there twice");
	assert_int_equal(word_encoder_new(&w, (const char *const[]) { "A" }, 1, 3, 6, 1, &e), -1);
	says(&e, "'A' is not lower-case");
	assert_int_equal(word_encoder_new(&w, (const char *const[]) { "a b" }, 1, 3, 6, 1, &e), -1);
	says(&e, "'a b'");
	assert_int_equal(word_encoder_new(&w, (const char *const[]) { "" }, 1, 3, 6, 1, &e), -1);
	says(&e, "is empty");
	assert_int_equal(word_encoder_new(&w, words, 5, 0, 6, 1, &e), -1);
	says(&e, "dim = 0");
	must(word_encoder_new(&w, (const char *const[]) { "<pad>", "a" }, 2, 3, 6, 1, &e), &e);
	assert_int_equal(w.n_words, 2);
	word_encoder_release(&w);
}

static void words_forward(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *path = file_join(dir, "words"), *vocab = file_join(path, "vocab.json");
	struct word_encoder w, again;
	struct cond c;
	struct err e = { "" };

	(void)state;
	must(word_encoder_new(&w, words, 5, 3, 4, 1, &e), &e);
	word_encoder_forward(&w, at_from((int64_t[]) { 2, 5, 0, 0, 1, 0, 0, 0 }, DIMS(2, 4), AT_I64), &c);
	assert_true(at_shape_is(cond_get(&c, COND_TEXT, NULL), DIMS(2, 4, 3)) &&
		    at_shape_is(cond_get(&c, COND_POOLED, NULL), DIMS(2, 3)));
	for (int k = 0; k < 3; k++) {
		static const int ids[] = { 2, 5, 0, 0 };
		double mean = 0;

		for (int i = 0; i < 4; i++) {
			float v = at_f32(w.token_VE)[ids[i] * 3 + k] + at_f32(w.position_LE)[i * 3 + k];

			assert_float_equal(at_f32(cond_get(&c, COND_TEXT, NULL))[i * 3 + k], v, 1e-6);
			mean += v / 4;
		}
		assert_float_equal(at_f32(cond_get(&c, COND_POOLED, NULL))[k], mean, 1e-6);
	}

	must(word_encoder_save(&w, path, &e) || word_encoder_open(&again, path, AT_F32, AT_CPU, &e), &e);
	assert_true(at_equal(w.token_VE, again.token_VE) && at_equal(w.position_LE, again.position_LE));
	for (int i = 0; i < 6; i++)
		assert_string_equal(w.word[i], again.word[i]);
	word_encoder_release(&again);
	must(file_write(vocab, "[\"<pad>\", \"a\"]", 14, &e), &e); /* fewer words than rows */
	assert_int_equal(word_encoder_open(&again, path, AT_F32, AT_CPU, &e), -1);
	says(&e, "token_embedding.weight");
	must(file_write(vocab, "[\"a\"]", 5, &e), &e);
	assert_int_equal(word_encoder_open(&again, path, AT_F32, AT_CPU, &e), -1);
	says(&e, "must be \"<pad>\"");
	must(file_write(vocab, "[\"<pad>\", 1]", 12, &e), &e);
	assert_int_equal(word_encoder_open(&again, path, AT_F32, AT_CPU, &e), -1);
	says(&e, "entry 1 is not a word");
	word_encoder_release(&w);
	free(path);
	free(vocab);
	at_end(s);
}

/* ---- LinearAutoencoder ----------------------------------------------------------------------- */

/* n patches of 12 values that vary in `rank` directions, with standard deviations 4, 2, 1, ... */
static at_t patches(int64_t n, int rank)
{
	struct rng r = rng_make(3, RNG_USER, 0, 0);
	at_t x = at_empty(DIMS(n, 12), AT_F64, AT_CPU);
	double *v = at_data(x);

	for (int64_t i = 0; i < n; i++, v += 12) {
		for (int k = 0; k < 12; k++)
			v[k] = 0.1 * k;
		for (int d = 0; d < rank; d++) {
			double c = rng_normal(&r) * 4 / pow(2, d);

			for (int k = 0; k < 12; k++)
				v[k] += c * cos((d + 1) * (k + 0.5) * 3.14159265358979 / 12) / sqrt(6);
		}
	}
	return x;
}

/* Images 4 wide and 2 high, two patches each, made of the rows of `rows`. */
static at_t as_images(at_t rows)
{
	at_t x = at_view(at_cast(rows, AT_F32), DIMS(-1, 2, 3, 2, 2));

	return at_reshape(at_permute(x, DIMS(0, 2, 3, 1, 4)), DIMS(-1, 3, 2, 4));
}

static double largest(at_t x)
{
	return at_item(at_max(at_abs(x)));
}

static void pca(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *path = file_join(dir, "vae");
	at_t data = patches(4000, 3), x = as_images(data), z, var, mean;
	struct linear_ae a, again;
	struct err e = { "" };

	(void)state;
	must(linear_ae_fit(&a, data, 2, 3, &e), &e);
	z = linear_ae_encode(&a, x);
	assert_true(at_shape_is(z, DIMS(2000, 3, 1, 2)));
	assert_true(largest(at_sub(linear_ae_decode(&a, z), x)) < 1e-4); /* rank 3: nothing is lost */

	/* centred, uncorrelated, variances in the ratio of the standard deviations, their mean 1 */
	z = at_reshape(at_permute(z, DIMS(0, 2, 3, 1)), DIMS(4000, 3));
	mean = at_mean_dim(z, 0, false);
	assert_true(largest(mean) < 1e-4);
	var = at_div(at_matmul(at_transpose(z, 0, 1), z), 4000.0);
	assert_float_equal(at_f32(var)[0] + at_f32(var)[4] + at_f32(var)[8], 3, 1e-3);
	assert_float_equal(at_f32(var)[0] / at_f32(var)[4], 2, 0.1);
	assert_float_equal(at_f32(var)[4] / at_f32(var)[8], 2, 0.1);
	assert_true(fabsf(at_f32(var)[1]) < 1e-3 && fabsf(at_f32(var)[2]) < 1e-3 &&
		    fabsf(at_f32(var)[5]) < 1e-3);

	must(linear_ae_save(&a, path, &e) || linear_ae_open(&again, path, AT_F32, AT_CPU, &e), &e);
	assert_true(at_equal(again.encode_CF, a.encode_CF) && at_equal(again.decode_FC, a.decode_FC) &&
		    at_equal(again.mean_F, a.mean_F));
	linear_ae_release(&again);
	linear_ae_release(&a);

	/* more channels than directions are zero; fewer lose just the smallest directions */
	must(linear_ae_fit(&a, data, 2, 5, &e), &e);
	z = linear_ae_encode(&a, x);
	assert_true(largest(at_sub(linear_ae_decode(&a, z), x)) < 1e-4);
	assert_true(largest(at_narrow(z, 1, 3, 2)) == 0 && at_finite(z));
	linear_ae_release(&a);
	must(linear_ae_fit(&a, data, 2, 2, &e), &e);
	at_t lost = at_sub(linear_ae_decode(&a, linear_ae_encode(&a, x)), x);
	assert_float_equal(at_item(at_mean(at_square(lost))) * 12, 1, 0.1);
	linear_ae_release(&a);
	free(path);
	at_end(s);
}

static void pca_errors(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct linear_ae a;
	struct err e = { "" };

	(void)state;
	assert_int_equal(linear_ae_fit(&a, patches(10, 3), 2, 13, &e), -1);
	says(&e, "channels = 13");
	assert_int_equal(linear_ae_fit(&a, patches(10, 3), 3, 4, &e), -1);
	says(&e, "rows of 27 values");
	assert_int_equal(linear_ae_fit(&a, patches(1, 3), 2, 4, &e), -1);
	says(&e, "two or more rows");
	at_end(s);
}

/* ---- The pipeline ---------------------------------------------------------------------------- */

/* A whole model directory, with a proj_out that is not zero. */
static void make_pipeline(const char *path)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *transformer = file_join(path, "transformer"), *text = file_join(path, "text_encoder");
	char *vae = file_join(path, "vae");
	struct transformer t;
	struct word_encoder w;
	struct linear_ae a;
	struct err e = { "" };

	must(pipeline_write_index(path, families[0], "WordTextEncoder", "LinearAutoencoder", 3, &e), &e);
	make_small(&t);
	const struct mmdit *m = t.m;
	at_copy_(m->proj_out.w_OI, at_full(DIMS(3, 8), 0.25, AT_F32, AT_CPU));
	at_copy_(m->norm_out.b_O, at_arange(16, AT_F32, AT_CPU));
	must(transformer_save(&t, NULL, transformer, AT_F32, &e), &e);
	transformer_close(&t);
	must(word_encoder_new(&w, words, 5, 5, 4, 1, &e) || word_encoder_save(&w, text, &e), &e);
	word_encoder_release(&w);
	must(linear_ae_fit(&a, patches(500, 3), 2, 3, &e) || linear_ae_save(&a, vae, &e), &e);
	linear_ae_release(&a);
	free(transformer);
	free(text);
	free(vae);
	at_end(s);
}

static int open_as(struct pipeline *p, const char *path, enum at_dtype dt, struct err *e)
{
	return pipeline_open(p, &(struct pipeline_options) { .dir = path, .dtype = dt }, e);
}

static void pipeline(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *path = file_join(dir, "pipeline");
	struct pipeline p, half;
	struct cond c, cb;
	struct err e = { "" };
	at_t v, vb, images;

	(void)state;
	make_pipeline(path);
	must(open_as(&p, path, AT_F32, &e) || open_as(&half, path, AT_BF16, &e), &e);
	assert_float_equal(p.schedule.shift, 3, 0);
	assert_int_equal(p.schedule.num_train_timesteps, 1000);
	struct pipeline_hashes hashes;
	must(pipeline_hash(&hashes, &(struct pipeline_options) { .dir = path }, &e), &e);
	assert_true(hashes.transformer != 0 && hashes.text == 0); /* words' embeddings are not kept */
	struct at_dims d = pipeline_latent_shape(&p, 0, 0), wide = pipeline_latent_shape(&p, 4, 8);
	assert_true(d.n == 3 && d.d[0] == 3 && d.d[1] == 2 && d.d[2] == 2);
	assert_true(wide.d[1] == 2 && wide.d[2] == 4);

	must(pipeline_encode(&p, (const char *const[]) { "a circle", "a photo" }, 2, &c, &e), &e);
	must(pipeline_encode(&half, (const char *const[]) { "a circle", "a photo" }, 2, &cb, &e), &e);
	assert_int_equal(pipeline_encode(&p, (const char *const[]) { "a", "b" }, 2, &c, &e), -1);
	says(&e, "'b'");
	at_t x = at_view(at_sin(at_arange(24, AT_F32, AT_CPU)), DIMS(2, 3, 2, 2)),
	     t = at_full(DIMS(2), 400, AT_F32, AT_CPU);
	v = pipeline_velocity(&p, &(struct pass) { 0 }, x, t, &c, NULL);
	vb = pipeline_velocity(&half, &(struct pass) { 0 }, x, t, &cb, NULL);
	assert_true(at_dtype_of(v) == AT_F32 && at_dtype_of(vb) == AT_F32 &&
		    at_shape_is(v, DIMS(2, 3, 2, 2)));
	assert_true(at_item(at_norm(v)) > 1);
	assert_true(at_item(at_norm(at_sub(v, vb))) < 0.02 * at_item(at_norm(v)));

	/* a row of the conditioning is that prompt's own */
	struct cond second = cond_rows(&c, at_from((int64_t[]) { 1 }, DIMS(1), AT_I64));
	at_t v1 = pipeline_velocity(&p, &(struct pass) { 0 }, at_narrow(x, 0, 1, 1), at_narrow(t, 0, 1, 1),
				    &second, NULL);
	assert_true(largest(at_sub(v1, at_narrow(v, 0, 1, 1))) < 1e-5);

	images = pipeline_images(&p, x);
	assert_true(at_dtype_of(images) == AT_U8 && at_shape_is(images, DIMS(2, 4, 4, 3)));
	at_t pixels = p.vae_type->decode(p.vae, x, 1);
	for (int i = 0; i < 96; i++) {
		double u =
		    (double)at_f32(at_contiguous(pixels))[i / 3 / 16 * 48 + i % 3 * 16 + i / 3 % 16] / 2 +
		    0.5;

		assert_int_equal(((uint8_t *)at_data(images))[i], lround(255 * fmin(fmax(u, 0), 1)));
	}
	pipeline_close(&p);
	pipeline_close(&half);
	free(path);
	at_end(s);
}

static void replace(const char *path, const char *from, const char *to)
{
	struct text t = { 0 };
	struct err e;
	char *data, *at;
	size_t size;

	must(file_read(&data, &size, path, &e), &e);
	at = strstr(data, from);
	assert_non_null(at);
	text_add_bytes(&t, data, (size_t)(at - data));
	text_add(&t, to);
	text_add(&t, at + strlen(from));
	must(file_write(path, t.s, t.n, &e), &e);
	text_free(&t);
	free(data);
}

static void pipeline_errors(void **state)
{
	static const struct {
		const char *file, *from, *to, *message;
	} cases[] = {
		{ "model_index.json", "WordTextEncoder", "T5EncoderModel",
		  "text_encoder is of class 'T5EncoderModel', which is unknown: there is WordTextEncoder" },
		{ "model_index.json", "LinearAutoencoder", "AutoencoderTiny",
		  "there is LinearAutoencoder, AutoencoderKL" },
		{ "model_index.json", "SD3Transformer2DModel", "UNet", "there is SD3Transformer2DModel" },
		{ "model_index.json", "FlowMatchEulerDiscreteScheduler", "DDIM", "there are FlowMatchEuler" },
		{ "scheduler/scheduler_config.json", "FlowMatchEulerDiscreteScheduler", "DDIM",
		  "'DDIM', which is unknown: there are FlowMatchEuler" },
		{ "scheduler/scheduler_config.json", "FlowMatchEulerDiscreteScheduler",
		  "DPMSolverMultistepScheduler", "prediction_type must be flow_prediction" },
		{ "model_index.json", "\"vae\"", "\"vee\"", "vae is missing" },
		{ "model_index.json", "{", "", "model_index.json" },
		{ "scheduler/scheduler_config.json", "\"shift\": 3", "\"shift\": 0", "shift" },
		{ "scheduler/scheduler_config.json", "{", "{\"use_karras_sigmas\": true,",
		  "'use_karras_sigmas' is set" },
		{ "scheduler/scheduler_config.json", "{", "{\"stochastic_sampling\": true,",
		  "'stochastic_sampling' is set" },
		{ "scheduler/scheduler_config.json", "{", "{\"time_shift_type\": \"cosine\",",
		  "time_shift_type 'cosine': there are exponential and linear" },
		{ "scheduler/scheduler_config.json", "{",
		  "{\"use_dynamic_shifting\": true, \"max_image_seq_len\": 256,", "no line goes through" },
		{ "scheduler/scheduler_config.json", "{", "{\"shift_terminal\": 1,",
		  "shift_terminal must be in [0, 1)" },
		{ "vae/config.json", "\"scale\": 2", "\"scale\": \"2\"", "scale" },
	};
	struct pipeline p;
	struct err e = { "" };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char *path = mem_printf("%s/pipeline-%zu", dir, i), *file = file_join(path, cases[i].file);

		make_pipeline(path);
		replace(file, cases[i].from, cases[i].to);
		assert_int_equal(open_as(&p, path, AT_F32, &e), -1);
		says(&e, cases[i].message);
		says(&e, file);
		assert_null(p.dir);
		free(path);
		free(file);
	}
	assert_int_equal(open_as(&p, "/nonexistent", AT_F32, &e), -1);
	says(&e, "/nonexistent: no such folder: docs/sd35.md");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, count_handles, no_handle_left)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(made_saves_and_opens),
		TEST(make_refuses),
		TEST(config_errors),
		TEST(weights_errors),
		TEST(tokens),
		TEST(vocabulary_errors),
		TEST(words_forward),
		TEST(pca),
		TEST(pca_errors),
		TEST(pipeline),
		TEST(pipeline_errors),
	};

	at_set_threads(1);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
