#include "models/known_keys.h"

/* clang-format off */
/* Versions, classes, and how transformers generates text, which nothing here does. */
const struct json_known known_anywhere[] = {
	{ "bad_words_ids", NULL },
	{ "begin_suppress_tokens", NULL },
	{ "bos_token_id", NULL },
	{ "chunk_size_feed_forward", NULL },
	{ "cross_attention_hidden_size", NULL },
	{ "decoder_start_token_id", NULL },
	{ "diversity_penalty", NULL },
	{ "do_sample", NULL },
	{ "early_stopping", NULL },
	{ "encoder_no_repeat_ngram_size", NULL },
	{ "eos_token_id", NULL },
	{ "exponential_decay_length_penalty", NULL },
	{ "finetuning_task", NULL },
	{ "forced_bos_token_id", NULL },
	{ "forced_eos_token_id", NULL },
	{ "id2label", NULL },
	{ "is_encoder_decoder", NULL },
	{ "label2id", NULL },
	{ "length_penalty", NULL },
	{ "max_length", NULL },
	{ "min_length", NULL },
	{ "no_repeat_ngram_size", NULL },
	{ "num_beam_groups", NULL },
	{ "num_beams", NULL },
	{ "num_return_sequences", NULL },
	{ "output_attentions", NULL },
	{ "output_hidden_states", NULL },
	{ "output_scores", NULL },
	{ "pad_token_id", NULL },
	{ "prefix", NULL },
	{ "problem_type", NULL },
	{ "remove_invalid_values", NULL },
	{ "repetition_penalty", NULL },
	{ "return_dict", NULL },
	{ "return_dict_in_generate", NULL },
	{ "sep_token_id", NULL },
	{ "suppress_tokens", NULL },
	{ "task_specific_params", NULL },
	{ "temperature", NULL },
	{ "tf_legacy_loss", NULL },
	{ "tie_encoder_decoder", NULL },
	{ "tie_word_embeddings", NULL },
	{ "tokenizer_class", NULL },
	{ "top_k", NULL },
	{ "top_p", NULL },
	{ "torch_dtype", NULL },
	{ "dtype", NULL },
	{ "torchscript", NULL },
	{ "transformers_version", NULL },
	{ "transformers.js_config", NULL },
	{ "typical_p", NULL },
	{ "use_bfloat16", NULL },
	{ "use_cache", NULL },
	{ "output_past", NULL },
	{ "architectures", NULL },
	{ "model_type", NULL },
	{ "attn_implementation", NULL },
	{ "_attn_implementation", NULL },
	{ "_attn_implementation_autoset", NULL },
	{ "_name_or_path", NULL },
	{ "_commit_hash", NULL },
	{ "_class_name", NULL },
	{ "_diffusers_version", NULL },
	{ "_diffusers_commit", NULL },
	{ "_use_default_values", NULL },
	/* of diffusers' EMAModel: how weights were averaged */
	{ "decay", NULL },
	{ "inv_gamma", NULL },
	{ "min_decay", NULL },
	{ "optimization_step", NULL },
	{ "power", NULL },
	{ "update_after_step", NULL },
	{ "use_ema_warmup", NULL },
	{ NULL, NULL },
};

/* Which modules have a pair, the tensors say; the start of training is over; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA
 * take their first pair out of the base weights when they are loaded, so W + s B A is not what they compute. */
const struct json_known known_lora[] = {
	{ "peft_type", NULL },
	{ "auto_mapping", NULL },
	{ "peft_version", NULL },
	{ "base_model_name_or_path", NULL },
	{ "revision", NULL },
	{ "inference_mode", NULL },
	{ "task_type", NULL },
	{ "r", NULL },
	{ "lora_alpha", NULL },
	{ "use_rslora", NULL },
	{ "rank_pattern", NULL },
	{ "alpha_pattern", NULL },
	{ "target_modules", NULL },
	{ "exclude_modules", NULL },
	{ "layers_to_transform", NULL },
	{ "layers_pattern", NULL },
	{ "lora_dropout", NULL },
	{ "runtime_config", NULL },
	{ "megatron_config", NULL },
	{ "megatron_core", NULL },
	{ "loftq_config", NULL },
	{ "eva_config", NULL },
	{ "corda_config", NULL },
	{ "lora_ga_config", NULL },
	{ "qalora_group_size", NULL },
	{ "bias", "\"none\"" },
	{ "init_lora_weights", "true|\"gaussian\"|\"Gaussian\"|\"eva\"|\"orthogonal\"" },
	{ NULL, NULL },
};

/* All that changes the levels is read.  from_config makes a scheduler of the other's file, and diffusers then ignores
 * what is not its own: betas, spacing and how steps are taken make no level of a flow, and steps are the sampler's
 * affair. */
#define KEYS_OF_SCHEDULERS \
	{ "shift", NULL }, \
	{ "flow_shift", NULL }, \
	{ "num_train_timesteps", "1000" }, \
	{ "use_dynamic_shifting", NULL }, \
	{ "base_shift", NULL }, \
	{ "max_shift", NULL }, \
	{ "base_image_seq_len", NULL }, \
	{ "max_image_seq_len", NULL }, \
	{ "shift_terminal", NULL }, \
	{ "time_shift_type", NULL }, \
	{ "prediction_type", NULL }, \
	{ "use_flow_sigmas", NULL }, \
	{ "beta_start", NULL }, \
	{ "beta_end", NULL }, \
	{ "beta_schedule", NULL }, \
	{ "trained_betas", NULL }, \
	{ "variance_type", NULL }, \
	{ "lambda_min_clipped", NULL }, \
	{ "timestep_spacing", NULL }, \
	{ "steps_offset", NULL }, \
	{ "solver_order", NULL }, \
	{ "algorithm_type", NULL }, \
	{ "solver_type", NULL }, \
	{ "lower_order_final", NULL }, \
	{ "euler_at_final", NULL }, \
	{ "dynamic_thresholding_ratio", NULL }, \
	{ "sample_max_value", NULL }

const struct json_known known_euler[] = { KEYS_OF_SCHEDULERS, { "final_sigmas_type", NULL }, { NULL, NULL } };
/* Its own last level is another one otherwise. */
const struct json_known known_dpm[] = { KEYS_OF_SCHEDULERS, { "final_sigmas_type", "\"zero\"" }, { NULL, NULL } };

/* All of it is read. */
const struct json_known known_sd3[] = {
	{ "sample_size", NULL },
	{ "patch_size", NULL },
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "num_layers", NULL },
	{ "attention_head_dim", NULL },
	{ "num_attention_heads", NULL },
	{ "joint_attention_dim", NULL },
	{ "caption_projection_dim", NULL },
	{ "pooled_projection_dim", NULL },
	{ "pos_embed_max_size", NULL },
	{ "dual_attention_layers", NULL },
	{ "qk_norm", NULL },
	{ NULL, NULL },
};

const struct json_known known_flux[] = {
	{ "patch_size", "1" },
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "num_layers", NULL },
	{ "num_single_layers", NULL },
	{ "attention_head_dim", NULL },
	{ "num_attention_heads", NULL },
	{ "joint_attention_dim", NULL },
	{ "pooled_projection_dim", NULL },
	{ "guidance_embeds", NULL },
	{ "axes_dims_rope", NULL },
	{ NULL, NULL },
};

/* A token is a latent; pooled text and a guidance scale (of dev) klein has none. */
const struct json_known known_flux2[] = {
	{ "patch_size", "1" },
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "num_layers", NULL },
	{ "num_single_layers", NULL },
	{ "attention_head_dim", NULL },
	{ "num_attention_heads", NULL },
	{ "joint_attention_dim", NULL },
	{ "timestep_guidance_channels", NULL },
	{ "mlp_ratio", NULL },
	{ "rope_theta", NULL },
	{ "eps", NULL },
	{ "guidance_embeds", NULL },
	{ "axes_dims_rope", NULL },
	{ NULL, NULL },
};

/* sample_size is of tiles; force_upcast is about float16, which no VAE here computes in. */
const struct json_known known_vae[] = {
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "latent_channels", NULL },
	{ "layers_per_block", NULL },
	{ "norm_num_groups", NULL },
	{ "block_out_channels", NULL },
	{ "down_block_types", NULL },
	{ "up_block_types", NULL },
	{ "act_fn", NULL },
	{ "scaling_factor", NULL },
	{ "shift_factor", NULL },
	{ "use_quant_conv", NULL },
	{ "use_post_quant_conv", NULL },
	{ "mid_block_add_attention", NULL },
	{ "sample_size", NULL },
	{ "force_upcast", NULL },
	{ NULL, NULL },
};

/* Its decoder may not be wider than its encoder; the momentum is of training. */
const struct json_known known_vae_flux2[] = {
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "latent_channels", NULL },
	{ "layers_per_block", NULL },
	{ "norm_num_groups", NULL },
	{ "block_out_channels", NULL },
	{ "down_block_types", NULL },
	{ "up_block_types", NULL },
	{ "act_fn", NULL },
	{ "use_quant_conv", NULL },
	{ "use_post_quant_conv", NULL },
	{ "mid_block_add_attention", NULL },
	{ "sample_size", NULL },
	{ "batch_norm_eps", NULL },
	{ "batch_norm_momentum", NULL },
	{ "patch_size", "[2,2]" },
	{ NULL, NULL },
};

/* Nothing reads pooled_projection_dim. */
const struct json_known known_qwen_image[] = {
	{ "patch_size", "2" },
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "num_layers", NULL },
	{ "attention_head_dim", NULL },
	{ "num_attention_heads", NULL },
	{ "joint_attention_dim", NULL },
	{ "pooled_projection_dim", NULL },
	{ "axes_dims_rope", NULL },
	{ NULL, NULL },
};

/* Dropout is of training; no attention but the middle's is known. */
const struct json_known known_qwen_vae[] = {
	{ "base_dim", NULL },
	{ "z_dim", NULL },
	{ "dim_mult", NULL },
	{ "num_res_blocks", NULL },
	{ "attn_scales", "[]" },
	{ "temperal_downsample", NULL },
	{ "dropout", NULL },
	{ "input_channels", "3" },
	{ "latents_mean", NULL },
	{ "latents_std", NULL },
	{ NULL, NULL },
};

/* Dropout and the spread of initial weights are of training. */
const struct json_known known_clip_text[] = {
	{ "hidden_size", NULL },
	{ "intermediate_size", NULL },
	{ "num_hidden_layers", NULL },
	{ "num_attention_heads", NULL },
	{ "layer_norm_eps", NULL },
	{ "hidden_act", NULL },
	{ "vocab_size", NULL },
	{ "max_position_embeddings", NULL },
	{ "projection_dim", NULL },
	{ "attention_dropout", NULL },
	{ "dropout", NULL },
	{ "initializer_factor", NULL },
	{ "initializer_range", NULL },
	{ NULL, NULL },
};

const struct json_known known_clip_vision[] = {
	{ "hidden_size", NULL },
	{ "intermediate_size", NULL },
	{ "num_hidden_layers", NULL },
	{ "num_attention_heads", NULL },
	{ "layer_norm_eps", NULL },
	{ "hidden_act", NULL },
	{ "image_size", NULL },
	{ "patch_size", NULL },
	{ "projection_dim", NULL },
	{ "num_channels", "3" },
	{ "attention_dropout", NULL },
	{ "dropout", NULL },
	{ "initializer_factor", NULL },
	{ "initializer_range", NULL },
	{ NULL, NULL },
};

/* n_positions is a limit that nothing reads; the decoder is not here; dense_act_fn and is_gated_act repeat
 * feed_forward_proj. */
const struct json_known known_t5[] = {
	{ "vocab_size", NULL },
	{ "d_model", NULL },
	{ "d_kv", NULL },
	{ "d_ff", NULL },
	{ "num_layers", NULL },
	{ "num_heads", NULL },
	{ "relative_attention_num_buckets", NULL },
	{ "relative_attention_max_distance", NULL },
	{ "layer_norm_epsilon", NULL },
	{ "feed_forward_proj", NULL },
	{ "dense_act_fn", NULL },
	{ "is_gated_act", NULL },
	{ "num_decoder_layers", NULL },
	{ "n_positions", NULL },
	{ "scale_decoder_outputs", NULL },
	{ "dropout_rate", NULL },
	{ "classifier_dropout", NULL },
	{ "initializer_factor", NULL },
	{ NULL, NULL },
};
/* How far positions and windows go, nothing here reads: layer_types and use_sliding_window are checked by
 * decoder_file.c.  Qwen2.5-VL's configuration also tells of its eyes, which are not opened. */
const struct json_known known_qwen[] = {
	{ "vocab_size", NULL },
	{ "hidden_size", NULL },
	{ "intermediate_size", NULL },
	{ "num_hidden_layers", NULL },
	{ "num_attention_heads", NULL },
	{ "num_key_value_heads", NULL },
	{ "head_dim", NULL },
	{ "rms_norm_eps", NULL },
	{ "rope_theta", NULL },
	{ "rope_parameters", NULL },
	{ "rope_scaling", NULL },
	{ "layer_types", NULL },
	{ "hidden_act", "\"silu\"" },
	{ "max_position_embeddings", NULL },
	{ "max_window_layers", NULL },
	{ "sliding_window", NULL },
	{ "use_sliding_window", "false" },
	{ "attention_dropout", NULL },
	{ "initializer_range", NULL },
	{ "image_token_id", NULL },
	{ "video_token_id", NULL },
	{ "vision_config", NULL },
	{ "vision_start_token_id", NULL },
	{ "vision_end_token_id", NULL },
	{ "vision_token_id", NULL },
	{ NULL, NULL },
};

/* The output layer, which final_logit_softcapping is of, is not here. */
const struct json_known known_gemma[] = {
	{ "vocab_size", NULL },
	{ "hidden_size", NULL },
	{ "intermediate_size", NULL },
	{ "num_hidden_layers", NULL },
	{ "num_attention_heads", NULL },
	{ "num_key_value_heads", NULL },
	{ "head_dim", NULL },
	{ "rms_norm_eps", NULL },
	{ "rope_theta", NULL },
	{ "rope_parameters", NULL },
	{ "layer_types", NULL },
	{ "hidden_act", "\"gelu_pytorch_tanh\"" },
	{ "hidden_activation", "\"gelu_pytorch_tanh\"" },
	{ "attention_bias", "false" },
	{ "use_bidirectional_attention", "null" },
	{ "query_pre_attn_scalar", NULL },
	{ "sliding_window", NULL },
	{ "sliding_window_size", NULL },
	{ "attn_logit_softcapping", NULL },
	{ "final_logit_softcapping", NULL },
	{ "cache_implementation", NULL },
	{ "max_position_embeddings", NULL },
	{ "attention_dropout", NULL },
	{ "initializer_range", NULL },
	{ NULL, NULL },
};
/* clang-format on */
