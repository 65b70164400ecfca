/*
 * known_keys.h -- what the configuration files of other programs may say, a list (json_known) for each class.
 *
 * A key stands here because the program reads it, because it changes no result, or with the only values that
 * are computed.  What stands in no list is refused by json_check_keys, unless it says nothing: a feature that
 * a later version of those programs adds is named, and never passed over.
 */
#ifndef KNOWN_KEYS_H
#define KNOWN_KEYS_H
#include "base/json.h"

extern const struct json_known known_anywhere[];   /* what diffusers and transformers write into every file */
extern const struct json_known known_lora[];       /* PEFT's LoraConfig */
extern const struct json_known known_euler[];      /* diffusers' FlowMatchEulerDiscreteScheduler */
extern const struct json_known known_dpm[];        /* diffusers' DPMSolverMultistepScheduler, of a flow */
extern const struct json_known known_sd3[];        /* diffusers' SD3Transformer2DModel */
extern const struct json_known known_flux[];       /* diffusers' FluxTransformer2DModel */
extern const struct json_known known_flux2[];      /* diffusers' Flux2Transformer2DModel */
extern const struct json_known known_vae_flux2[];  /* diffusers' AutoencoderKLFlux2 */
extern const struct json_known known_vae[];        /* diffusers' AutoencoderKL */
extern const struct json_known known_qwen_image[]; /* diffusers' QwenImageTransformer2DModel */
extern const struct json_known known_qwen_vae[];   /* diffusers' AutoencoderKLQwenImage */
extern const struct json_known known_clip_text[];  /* transformers' CLIPTextConfig */
extern const struct json_known known_clip_vision[]; /* transformers' CLIPVisionConfig */
extern const struct json_known known_t5[];          /* transformers' T5Config */
extern const struct json_known known_gemma[];       /* transformers' Gemma2 */
extern const struct json_known known_qwen[];        /* transformers' Qwen3Config, Qwen2_5_VLTextConfig */

#endif
