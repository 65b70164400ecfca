/* What configuration files of other programs may say: known, empty, or an error that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "models/known_keys.h"

static int check(const struct json_known *known, const char *text, struct err *e)
{
	json_t *o = json_parse(text, strlen(text), "file", e);
	int ret;

	assert_non_null(o);
	ret = json_check_keys(o, known, known_anywhere, "file", e);
	json_decref(o);
	return ret;
}

/* Published files, as the hub has them. */
static void published(void **state)
{
	static const struct {
		const struct json_known *known;
		const char *text;
	} files[] = {
		{ known_sd3, /* stable-diffusion-3.5-medium */
		  "{\"_class_name\":\"SD3Transformer2DModel\",\"_diffusers_version\":\"0.31.0.dev0\","
		  "\"attention_head_dim\":64,\"caption_projection_dim\":1536,\"dual_attention_layers\":[0,1],"
		  "\"in_channels\":16,\"joint_attention_dim\":4096,\"num_attention_heads\":24,\"num_layers\":"
		  "24,"
		  "\"out_channels\":16,\"patch_size\":2,\"pooled_projection_dim\":2048,"
		  "\"pos_embed_max_size\":384,\"qk_norm\":\"rms_norm\",\"sample_size\":128}" },
		{ known_t5, /* its third text encoder */
		  "{\"_name_or_path\":\"x\",\"architectures\":[\"T5EncoderModel\"],\"classifier_dropout\":0."
		  "0,"
		  "\"d_ff\":10240,\"d_kv\":64,\"d_model\":4096,\"decoder_start_token_id\":0,"
		  "\"dense_act_fn\":\"gelu_new\",\"dropout_rate\":0.1,\"eos_token_id\":1,"
		  "\"feed_forward_proj\":\"gated-gelu\",\"initializer_factor\":1.0,\"is_encoder_decoder\":"
		  "true,"
		  "\"is_gated_act\":true,\"layer_norm_epsilon\":1e-06,\"model_type\":\"t5\","
		  "\"num_decoder_layers\":24,\"num_heads\":64,\"num_layers\":24,\"output_past\":true,"
		  "\"pad_token_id\":0,\"relative_attention_max_distance\":128,"
		  "\"relative_attention_num_buckets\":32,\"tie_word_embeddings\":false,"
		  "\"torch_dtype\":\"float16\",\"transformers_version\":\"4.41.2\",\"use_cache\":true,"
		  "\"vocab_size\":32128}" },
		{ known_dpm, /* SANA's */
		  "{\"_class_name\":\"DPMSolverMultistepScheduler\",\"algorithm_type\":\"dpmsolver++\","
		  "\"beta_end\":0.02,\"beta_schedule\":\"linear\",\"beta_start\":0.0001,"
		  "\"dynamic_thresholding_ratio\":0.995,\"euler_at_final\":false,"
		  "\"final_sigmas_type\":\"zero\",\"flow_shift\":3.0,\"lambda_min_clipped\":null,"
		  "\"lower_order_final\":true,\"num_train_timesteps\":1000,"
		  "\"prediction_type\":\"flow_prediction\",\"rescale_betas_zero_snr\":false,"
		  "\"sample_max_value\":1.0,\"solver_order\":2,\"solver_type\":\"midpoint\","
		  "\"steps_offset\":0,\"thresholding\":false,\"timestep_spacing\":\"linspace\","
		  "\"trained_betas\":null,\"use_flow_sigmas\":true,\"variance_type\":null}" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		struct err e = { "" };

		if (check(files[i].known, files[i].text, &e))
			fail_msg("%s", e.msg);
	}
}

static void others(void **state)
{
	static const struct json_known *const all[] = { known_lora,        known_euler, known_dpm,
							known_sd3,         known_vae,   known_clip_text,
							known_clip_vision, known_t5 };
	static const struct {
		const struct json_known *known;
		const char *text, *says;
	} bad[] = {
		{ known_vae, "{\"latents_mean\":[0.1]}", "file: 'latents_mean' is set ([0.1])" },
		{ known_t5, "{\"quantization_config\":{\"bits\":8}}", "'quantization_config' is set" },
		{ known_t5, "{\"is_decoder\":true}", "'is_decoder' is set" },
		{ known_clip_vision, "{\"num_channels\":4}",
		  "num_channels is 4, which is not supported: there is 3" },
		{ known_lora, "{\"bias\":\"all\"}", "bias is \"all\"" },
		{ known_lora, "{\"bias\":\"non\"}", "bias is \"non\"" },
		{ known_dpm, "{\"thresholding\":true}", "'thresholding' is set (true)" },
		{ known_dpm, "{\"final_sigmas_type\":\"sigma_min\"}", "final_sigmas_type is \"sigma_min\"" },
		{ known_euler, "{\"use_karras_sigmas\":true}", "'use_karras_sigmas' is set" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct err e = { "" };

		assert_int_equal(check(all[i], "{\"a\":null,\"b\":false,\"c\":\"\",\"d\":[],\"e\":{}}", &e),
				 0);
		assert_int_equal(check(all[i], "{\"tomorrow\":0}", &e), -1);
		assert_non_null(strstr(e.msg, "'tomorrow' is set (0)"));
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct err e = { "" };

		assert_int_equal(check(bad[i].known, bad[i].text, &e), -1);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s", e.msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(published), cmocka_unit_test(others) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
