/* import_keys.c -- DiffusionNFT's and flow_grpo's keys, and what each becomes here. */
#include "commands/import/import.h"
#include "base/mem.h"
#include "commands/options.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_true(const char *v)
{
	return !strcmp(v, "true") || !strcmp(v, "True") || !strcmp(v, "1");
}

static bool is_zero(const char *v)
{
	char *end;

	return strtod(v, &end) == 0 && end != v && !*end;
}

/* ---- Values that are not merely copied --------------------------------------------------------- */

/* What must be on, and what must be off: otherwise the result is another one, and nothing here does that. */
static void must(struct import *m, const struct import_key *k, const char *v)
{
	if (!is_true(v))
		import_warn(m, k->theirs, v, k->note);
}
static void must_not(struct import *m, const struct import_key *k, const char *v)
{
	if (!is_zero(v) && strcmp(v, "false") != 0)
		import_warn(m, k->theirs, v, k->note);
}

/* Read together with another key, or by import_sizes. */
static void elsewhere(struct import *m, const struct import_key *k, const char *v)
{
	(void)m;
	(void)k;
	(void)v;
}

static void must_be_one(struct import *m, const struct import_key *k, const char *v)
{
	if (strcmp(v, "1") != 0)
		import_warn(m, k->theirs, v, k->note);
}

/* "owner/name" of the hub is expected in models/name. */
static void put_model(struct import *m, const struct import_key *k, const char *v)
{
	static const char *const others[] = { "Kontext", "Edit", "Wan", "BAGEL", NULL };
	const char *slash = strchr(v, '/');
	bool hub = slash && slash != v && v[0] != '.' && !strchr(slash + 1, '/');
	char *path = hub ? mem_printf("models/%s", slash + 1) : mem_str(v);
	bool flux = strstr(v, "FLUX.1"), qwen = strstr(v, "Qwen-Image");

	for (int i = 0; others[i]; i++)
		if (strstr(v, others[i]))
			import_warn(m, k->theirs, v,
				    "editing, video and mixed models are not supported: docs/models.md has "
				    "those that are");
	import_set_text(m, k->ours, path);
	if (m->of == IMPORT_NFT || !(flux || qwen) || import_value(m, "train.lora_path")) {
		import_set(m, "lora.rank", "32");
		import_set(m, "lora.alpha", "64");
	} else {
		import_set(m, "lora.rank", "64");
		import_set(m, "lora.alpha", "128");
	}
#define ATTENTION                                                                                            \
	"attn.to_q, attn.to_k, attn.to_v, attn.to_out.0, attn.add_q_proj, attn.add_k_proj, "                 \
	"attn.add_v_proj, "                                                                                  \
	"attn.to_add_out"
	import_set(m, "lora.init", "gaussian");
	import_set(m, "lora.targets",
		   flux ? "[" ATTENTION ", ff.net.0.proj, ff.net.2, ff_context.net.0.proj, ff_context.net.2]"
		   : qwen ? "[" ATTENTION
			    ", img_mlp.net.0.proj, img_mlp.net.2, txt_mlp.net.0.proj, txt_mlp.net.2]"
			  : "[" ATTENTION "]");
	if (!qwen)
		import_set(m, "model.text_length", "128");
	free(path);
}

static void put_dtype(struct import *m, const struct import_key *k, const char *v)
{
	import_set(m, k->ours, !strcmp(v, "fp16") ? "float16" : !strcmp(v, "bf16") ? "bfloat16" : "float32");
}

static void put_dataset(struct import *m, const struct import_key *k, const char *v)
{
	const char *fn = import_value(m, "prompt_fn");
	bool geneval = fn && !strcmp(fn, "geneval");
	char *train = mem_printf("%s/train%s", v, geneval ? "_metadata.jsonl" : ".txt"),
	     *test = mem_printf("%s/test%s", v, geneval ? "_metadata.jsonl" : ".txt");

	if (fn && !geneval && strcmp(fn, "general_ocr") != 0)
		import_warn(m, "prompt_fn", fn, "only general_ocr (train.txt) and geneval are known");
	(void)k;
	import_set_text(m, "prompts.train", train);
	import_set_text(m, "prompts.test", test);
	free(train);
	free(test);
}

static void put_reward(struct import *m, const struct import_key *k, const char *v)
{
	const char *name = NULL;

	for (int i = 0; i < m->n; i++) /* the one whose value this is */
		if (m->v[i].value == v)
			name = m->v[i].key + strlen("reward_fn.");
	(void)k;
	for (const struct import_reward *r = import_rewards; name && r->theirs; r++)
		if (!strcmp(r->theirs, name)) {
			char *ours = mem_printf("rewards.%s", name), *weight = mem_printf("%s.weight", ours);

			import_set(m, ours, r->ours);
			import_set(m, weight, v);
			if (r->note)
				import_comment(m, ours, v, r->note);
			free(ours);
			free(weight);
			return;
		}
	import_warn(m, name, v,
		    "no such reward here: one of your own can be had by `exec`, `http` or `plugin` "
		    "(docs/extending.md)");
}

static void put_std(struct import *m, const struct import_key *k, const char *v)
{
	import_set(m, k->ours, is_true(v) ? "global" : "group");
}

static void put_eval_guidance(struct import *m, const struct import_key *k, const char *v)
{
	import_set(m, "rollout.guidance", v);
	if (!import_value(m, "sample.eval_guidance_scale"))
		import_set(m, "eval.sampler.guidance", v);
	(void)k;
}

/* DiffusionNFT's solvers: `deterministic` takes the noise out of the first three. */
static void put_solver(struct import *m, const struct import_key *k, const char *v)
{
	const char *d = import_value(m, "sample.deterministic"), *eta = import_value(m, "sample.noise_level");
	bool ode = d && is_true(d);

	if (!strcmp(v, "flow"))
		import_set(m, k->ours, ode ? "euler" : "flow_sde");
	else if (!strcmp(v, "dance"))
		import_set(m, k->ours, ode ? "euler" : "dance_sde");
	else
		import_set(m, k->ours, v);
	if (ode || text_starts(v, "dpm"))
		import_comment(m, "sample.noise_level", eta ? eta : "0.7", "this solver adds no noise");
	else if (eta)
		import_set(m, "rollout.eta", eta);
	if (ode && !strcmp(v, "ddim"))
		import_set(m, "rollout.eta", "0");
}

static void put_noise(struct import *m, const struct import_key *k, const char *v)
{
	if (m->of == IMPORT_GRPO)
		import_set(m, k->ours, v); /* otherwise put_solver has it */
}

static void put_sde(struct import *m, const struct import_key *k, const char *v)
{
	(void)k;
	if (!strcmp(v, "cps")) {
		import_set(m, "rollout.solver", "cps");
		import_set(m, "flow_grpo.log_ratio", "unscaled");
	} else if (strcmp(v, "sde") != 0) {
		import_warn(m, "sample.sde_type", v, "only sde and cps are known; flow_sde is taken");
	}
}

static void put_guard(struct import *m, const struct import_key *k, const char *v)
{
	if (is_true(v))
		import_set(m, k->ours, "guard");
}

/* Every dump has a window, of two steps by default, but the ordinary trainer of SD3.5 and FLUX.1 does not
 * read it.  Those that do need a key more, or are Qwen-Image's. */
static bool has_window(const struct import *m)
{
	const char *size = import_value(m, "sample.sde_window_size"),
		   *model = import_value(m, "pretrained.model");

	return size && !is_zero(size) &&
	       (import_value(m, "sample.sde_type") || import_value(m, "sample.train_num_steps") ||
		(model && strstr(model, "Qwen-Image")));
}

static void put_window(struct import *m, const struct import_key *k, const char *v)
{
	if (has_window(m))
		import_set(m, k->ours, v);
	else
		import_comment(m, k->theirs, v,
			       "only the trainers of windows read it, which also need sample.sde_type");
}

/* [low, high): both elements come here. */
static void put_window_range(struct import *m, const struct import_key *k, const char *v)
{
	(void)k;
	if (has_window(m))
		import_set(m,
			   v == import_value(m, "sample.sde_window_range[0]") ? "flow_grpo.window_low"
									      : "flow_grpo.window_high",
			   v);
}

static void put_cfg(struct import *m, const struct import_key *k, const char *v)
{
	if (!is_true(v) && import_number(m, "sample.guidance_scale", 1) > 1)
		import_warn(m, k->theirs, v, k->note);
}

static void put_decay(struct import *m, const struct import_key *k, const char *v)
{
	static const char *const kinds[] = { "on_policy", "linear", "warm" };

	if (strlen(v) == 1 && *v >= '0' && *v <= '2')
		import_set(m, k->ours, kinds[*v - '0']);
	else
		import_warn(m, k->theirs, v, "only 0, 1 and 2 are known");
}

static void put_ema(struct import *m, const struct import_key *k, const char *v)
{
	import_set(m, k->ours, is_true(v) ? "0.9" : "0");
}

/* A number of their epochs as optimizer steps. */
static void put_epochs(struct import *m, const struct import_key *k, const char *v)
{
	double epochs = strtod(v, NULL);
	char *steps = mem_printf("%.0f", epochs * (double)import_steps(m));

	if (!strcmp(k->theirs, "num_epochs") && epochs >= 100000)
		import_comment(m, k->theirs, v,
			       "trains until it is stopped; here train.max_steps ends a run");
	else
		import_set(m, k->ours, steps);
	free(steps);
}

static void put_lora_path(struct import *m, const struct import_key *k, const char *v)
{
	if (*v)
		import_set_text(m, k->ours, v);
}

static void put_checkpointing(struct import *m, const struct import_key *k, const char *v)
{
	import_set(m, k->ours, is_true(v) ? "true" : "auto");
}

static void put_name(struct import *m, const struct import_key *k, const char *v)
{
	if (*v)
		import_set_text(m, k->ours, v);
}

/* ---- Sizes -------------------------------------------------------------------------------------- */

int64_t import_steps(const struct import *m)
{
	double batches = import_number(m, "sample.num_batches_per_epoch", 1),
	       gather = import_number(m, "train.gradient_accumulation_steps", 1), steps = batches / gather;

	if (m->of == IMPORT_NFT)
		steps *=
		    import_number(m, "sample.train_batch_size", 1) / import_number(m, "train.batch_size", 1);
	return steps >= 1 && steps < 1e6 ? (int64_t)llround(steps) : 1;
}

void import_sizes(struct import *m)
{
	/* Flow-GRPO-Fast of 2025-10 samples one prompt at a time, so many images of it on each GPU. */
	double batch = import_number(m, "sample.train_batch_size", NAN),
	       mini = import_number(m, "sample.mini_num_image_per_prompt", batch),
	       batches = import_number(m, "sample.num_batches_per_epoch", NAN),
	       group = import_number(m, "sample.num_image_per_prompt", NAN);
	char s[32];

	snprintf(s, sizeof s, "%lld", (long long)import_steps(m));
	import_set(m, "train.steps_per_epoch", s);
	import_set(m, "rollout.batch", "auto");
	import_set(m, "eval.sampler.batch", "auto");
	import_set(m, "train.micro_batch", "auto");
	if (!import_value(m, "activation_checkpointing"))
		import_set(m, "train.gradient_checkpointing", "auto");
	if (isnan(mini) || isnan(batches) || isnan(group)) {
		import_comment(m, "prompts.groups", "48",
			       "the file does not say how many images an epoch has");
		return;
	}
	if (m->gpus == OPTION_UNSET) {
		m->failed =
		    err_set(m->e,
			    "the file does not say on how many GPUs it ran, and so not how many prompts "
			    "an epoch has (GPUs x %g x %g images, %g of a prompt): add --gpus N",
			    mini, batches, group);
		return;
	}
	double groups = (double)m->gpus * mini * batches / group;
	if (groups < 1 || groups != floor(groups)) {
		m->failed =
		    err_set(m->e,
			    "%lld GPUs x %g x %g images are no whole number of prompts with %g images: "
			    "--gpus has to be the number that the configuration was made for",
			    (long long)m->gpus, mini, batches, group);
		return;
	}
	snprintf(s, sizeof s, "%.0f", groups);
	import_set(m, "prompts.groups", s);
}

/* ---- The tables --------------------------------------------------------------------------------- */

#define SIZES                                                                                                \
	"with the number of GPUs (`--gpus`): the prompts of an epoch; what is computed at a time is `auto`"

const struct import_key import_keys[] = {
	{ "pretrained.model", IMPORT_BOTH, "model.path", put_model,
	  "`owner/name` of the hub becomes `models/name`; rank, alpha and modules of the adapter are fixed "
	  "in their "
	  "trainers: 32, 64 and attention, for FLUX.1 and Qwen-Image 64, 128 and the feed-forwards as well" },
	{ "pretrained.revision", IMPORT_BOTH, NULL, NULL, "a directory has one revision" },
	{ "base_model", IMPORT_NFT, NULL, NULL, "the model directory says what it is" },
	{ "run_name", IMPORT_BOTH, "run.name", put_name, NULL },
	{ "run_project", IMPORT_GRPO, NULL, NULL, "wandb's" },
	{ "seed", IMPORT_BOTH, "run.seed", NULL, "other random numbers all the same" },
	{ "mixed_precision", IMPORT_BOTH, "run.dtype", put_dtype,
	  "`fp16`: float16, `bf16`: bfloat16, `no`: float32" },
	{ "allow_tf32", IMPORT_BOTH, NULL, NULL, "convolutions use TF32 as PyTorch does by default" },
	{ "use_lora", IMPORT_BOTH, NULL, must, "only adapters are trained here, not all weights" },
	{ "train.lora_path", IMPORT_BOTH, "lora.start", put_lora_path, NULL },
	{ "dataset", IMPORT_BOTH, "prompts.train prompts.test", put_dataset,
	  "the files of that folder: `train.txt` and `test.txt`, or `train_metadata.jsonl` and "
	  "`test_metadata.jsonl`" },
	{ "prompt_fn", IMPORT_BOTH, "prompts.train prompts.test", elsewhere,
	  "which files: `general_ocr` or `geneval`" },
	{ "prompt_fn_kwargs.*", IMPORT_BOTH, NULL, NULL, "their prompt functions take none" },
	{ "resolution", IMPORT_BOTH, "prompts.height prompts.width", NULL, NULL },
	{ "sample.num_image_per_prompt", IMPORT_BOTH, "prompts.group_size", NULL, NULL },
	{ "sample.train_batch_size", IMPORT_BOTH, "prompts.groups", elsewhere, SIZES },
	{ "sample.num_batches_per_epoch", IMPORT_BOTH, "prompts.groups train.steps_per_epoch", elsewhere,
	  SIZES },
	{ "sample.mini_num_image_per_prompt", IMPORT_GRPO, "prompts.groups", elsewhere, SIZES },
	{ "sample.test_batch_size", IMPORT_BOTH, "eval.sampler.batch", elsewhere, "`auto`" },
	{ "sample.batch_size", IMPORT_GRPO, NULL, NULL, "left over there: nothing reads it" },
	{ "train_attribute", IMPORT_GRPO, NULL, must_not, "prompts of one tag: a file with those alone" },
	{ "reward_fn.*", IMPORT_BOTH, "rewards.NAME.weight", put_reward, "the next table has the rewards" },
	{ "sample.num_steps", IMPORT_BOTH, "rollout.steps", NULL, NULL },
	{ "sample.eval_num_steps", IMPORT_BOTH, "eval.sampler.steps", NULL, NULL },
	{ "sample.guidance_scale", IMPORT_BOTH, "rollout.guidance eval.sampler.guidance", put_eval_guidance,
	  "evaluation's unless `sample.eval_guidance_scale` is there" },
	{ "sample.eval_guidance_scale", IMPORT_GRPO, "eval.sampler.guidance", NULL, NULL },
	{ "sample.solver", IMPORT_NFT, "rollout.solver", put_solver,
	  "`dpm1`, `dpm2` and `ddim` as they are; `flow`: euler with `sample.deterministic`, else flow_sde; "
	  "`dance`: "
	  "euler or dance_sde" },
	{ "sample.deterministic", IMPORT_NFT, "rollout.eta", elsewhere, "read with `sample.solver`" },
	{ "sample.noise_level", IMPORT_BOTH, "rollout.eta", put_noise, "for solvers that add noise" },
	{ "sample.sde_type", IMPORT_GRPO, "rollout.solver flow_grpo.log_ratio", put_sde,
	  "`sde`: flow_sde; `cps`: cps, with log-probabilities as published (`unscaled`)" },
	{ "sample.sde_window_size", IMPORT_GRPO, "flow_grpo.window", put_window,
	  "where `sample.sde_type` is there, or for Qwen-Image: other trainers do not read it" },
	{ "sample.sde_window_range", IMPORT_GRPO, "flow_grpo.window_low flow_grpo.window_high",
	  put_window_range, "read where there is a window" },
	{ "sample.train_num_steps", IMPORT_GRPO, NULL, NULL, "`sample.sde_window_size` is what is read" },
	{ "sample.same_latent", IMPORT_GRPO, NULL, must_not,
	  "images of a prompt begin from noise of their own here, always" },
	{ "sample.kl_reward", IMPORT_GRPO, NULL, must_not,
	  "the KL divergence is part of the loss, not of rewards" },
	{ "sample.sample_time_per_prompt", IMPORT_GRPO, NULL, must_not, "of the video trainer" },
	{ "sample.global_std", IMPORT_BOTH, "advantage.std", put_std, "true: global; false: group" },
	{ "per_prompt_stat_tracking", IMPORT_BOTH, NULL, must,
	  "advantages are always relative to the prompt's mean here" },
	{ "train.adv_clip_max", IMPORT_BOTH, "advantage.clip", NULL, NULL },
	{ "train.adv_mode", IMPORT_NFT, "advantage.mode", NULL, NULL },
	{ "train.batch_size", IMPORT_BOTH, "train.micro_batch", elsewhere, "`auto`" },
	{ "train.gradient_accumulation_steps", IMPORT_BOTH, "train.steps_per_epoch", elsewhere,
	  "batches of an epoch / this" },
	{ "train.num_inner_epochs", IMPORT_BOTH, NULL, must_be_one,
	  "1 here: an epoch's images are trained once" },
	{ "train.timestep_fraction", IMPORT_BOTH, "train.timestep_fraction", NULL,
	  "with a window the window's steps are trained, there and here" },
	{ "train.max_grad_norm", IMPORT_BOTH, "train.max_grad_norm", NULL, NULL },
	{ "train.learning_rate", IMPORT_BOTH, "optimizer.lr", NULL, NULL },
	{ "train.adam_beta1", IMPORT_BOTH, "optimizer.beta1", NULL, NULL },
	{ "train.adam_beta2", IMPORT_BOTH, "optimizer.beta2", NULL, NULL },
	{ "train.adam_weight_decay", IMPORT_BOTH, "optimizer.weight_decay", NULL, NULL },
	{ "train.adam_epsilon", IMPORT_BOTH, "optimizer.eps", NULL, NULL },
	{ "train.use_8bit_adam", IMPORT_GRPO, NULL, must_not, "moments have 32 bits here" },
	{ "train.ema", IMPORT_BOTH, "policy.ema_decay", put_ema, "true: 0.9; false: 0" },
	{ "decay_type", IMPORT_NFT, "policy.old_schedule", put_decay, "0: on_policy; 1: linear; 2: warm" },
	{ "beta", IMPORT_NFT, "nft.beta", NULL, NULL },
	{ "train.beta", IMPORT_NFT, "nft.kl_beta", NULL, NULL },
	{ "train.beta", IMPORT_GRPO, "flow_grpo.kl_beta", NULL, NULL },
	{ "train.clip_range", IMPORT_GRPO, "flow_grpo.clip", NULL, NULL },
	{ "train.clip_range_lt", IMPORT_GRPO, NULL, NULL, "read by the trainer of BAGEL alone" },
	{ "train.clip_range_gt", IMPORT_GRPO, NULL, NULL, "read by the trainer of BAGEL alone" },
	{ "train.highclip_range", IMPORT_GRPO, NULL, NULL, "nothing reads it there" },
	{ "rationorm", IMPORT_GRPO, "flow_grpo.log_ratio", put_guard, "true: guard" },
	{ "train.cfg", IMPORT_GRPO, NULL, put_cfg, "the update has the rollout's guidance here, always" },
	{ "train.timestep_shift", IMPORT_GRPO, NULL, NULL, "read by the trainer of BAGEL alone" },
	{ "train.sft", IMPORT_GRPO, NULL, must_not, "no supervised loss beside the other" },
	{ "train.sft_batch_size", IMPORT_GRPO, NULL, must_not, "no supervised loss beside the other" },
	{ "activation_checkpointing", IMPORT_GRPO, "train.gradient_checkpointing", put_checkpointing,
	  "false: `auto`" },
	{ "fsdp_optimizer_offload", IMPORT_GRPO, NULL, NULL,
	  "weights and moments are not divided among ranks" },
	{ "eval_freq", IMPORT_BOTH, "eval.every", put_epochs, "epochs there, optimizer steps here" },
	{ "save_freq", IMPORT_BOTH, "checkpoint.every", put_epochs, "epochs there, optimizer steps here" },
	{ "num_checkpoint_limit", IMPORT_GRPO, "checkpoint.keep", NULL, NULL },
	{ "num_epochs", IMPORT_BOTH, "train.max_steps", put_epochs,
	  "epochs there, optimizer steps here; 100000 means until it is stopped" },
	{ "logdir", IMPORT_BOTH, NULL, NULL, "`--run DIR` names a run's directory" },
	{ "save_dir", IMPORT_BOTH, NULL, NULL, "`--run DIR` names a run's directory" },
	{ "resume_from", IMPORT_BOTH, NULL, NULL,
	  "`--run DIR --resume`; an adapter of theirs goes into `lora.start`" },
	{ "debug", IMPORT_BOTH, NULL, NULL, "of their own development" },
	{ NULL, 0, NULL, NULL, NULL },
};

const struct import_reward import_rewards[] = {
	{ "geneval",
	  "{detector: script, module: models/mask2former.pt, classes: models/mask2former.classes.txt, clip: "
	  "models/clip-vit-large-patch14}",
	  "the published training reward scores a wrong position 1 and has no lower bound; "
	  "rewards.geneval.reference_scoring: true does so, too" },
	{ "ocr", "{}", "PaddleOCR there, Tesseract here; examples/judge_ppocr.py is PP-OCR by `exec`" },
	{ "pickscore", "{model: models/pickscore}", NULL },
	{ "hpsv2", "{model: models/hpsv2}", NULL },
	{ "clipscore", "{model: models/clip-vit-large-patch14}", NULL },
	{ "aesthetic", "{model: models/clip-vit-large-patch14, head: models/aesthetic.safetensors}", NULL },
	{ "imagereward",
	  "{type: script, module: models/imagereward.pt, tokenizer: models/imagereward.tokenizer, "
	  "text_length: 35}",
	  "tools/export_imagereward.py makes the two" },
	{ "unifiedreward", "{type: openai, url: 'http://127.0.0.1:17140/v1/chat/completions'}",
	  "an answer without a score counts 0 there, and is left out here" },
	{ "jpeg_compressibility", "{}", NULL },
	{ "jpeg_incompressibility", "{}", NULL },
	{ NULL, NULL, NULL },
};

const struct import_fixed import_fixed[] = {
	{ IMPORT_NFT, "rollout.timesteps", "integer", "the sampler cuts 1000 sigma to a whole number" },
	{ IMPORT_NFT, "eval.sampler.timesteps", "integer", "likewise" },
	{ IMPORT_NFT, "train.timesteps", "float", "the update does not" },
	{ IMPORT_GRPO, "train.algorithm", "flow_grpo", NULL },
	{ IMPORT_GRPO, "rollout.solver", "flow_sde", "or cps, by `sample.sde_type`" },
	{ IMPORT_GRPO, "policy.old_schedule", "on_policy", "the current policy samples" },
	{ IMPORT_GRPO, "policy.ema_every", "8", "the averaged policy moves at every eighth step" },
	{ IMPORT_BOTH, "eval.sampler.solver", "euler", "an ODE step" },
	{ 0, NULL, NULL, NULL },
};

const struct import_published import_published[] = {
	{ "config/nft.py", "sd3_geneval", "sd35m-geneval" },
	{ "config/nft.py", "sd3_ocr", "sd35m-ocr" },
	{ "config/nft.py", "sd3_pickscore", "sd35m-pickscore" },
	{ "config/nft.py", "sd3_hpsv2", "sd35m-hpsv2" },
	{ "config/nft.py", "sd3_multi_reward", "sd35m-multireward" },
	{ "config/grpo.py", "geneval_sd3", "sd35m-flowgrpo-geneval" },
	{ "config/grpo.py", "general_ocr_sd3", "sd35m-flowgrpo-ocr" },
	{ "config/grpo.py", "pickscore_sd3", "sd35m-flowgrpo-pickscore" },
	{ "config/grpo.py", "geneval_sd3_fast_nocfg", "sd35m-flowgrpo-geneval-fast" },
	{ "config/grpo.py", "pickscore_sd3_fast_nocfg", "sd35m-flowgrpo-pickscore-fast" },
	{ "config/grpo.py", "pickscore_flux", "flux1-dev-flowgrpo-pickscore" },
	{ "config/grpo.py", "geneval_flux_fast", "flux1-dev-flowgrpo-geneval-fast" },
	{ "config/grpo_guard.py", "geneval_sd3_rationorm", "sd35m-flowgrpo-guard-geneval" },
	{ NULL, NULL, NULL },
};
