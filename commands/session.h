/*
 * session.h -- a model and, perhaps, an adapter in its weights or beside them (lora_ready): what sample and
 * eval run on, and the settings with which they do: a run's are those of its own evaluations.
 */
#ifndef SESSION_H
#define SESSION_H
#include "dist/dist.h"
#include "base/json.h"
#include "models/pipeline.h"
#include "sampler/sample.h"
#include "trainer/experiment.h"
#include "commands/options.h"
#include <math.h>

/* As given on the command line: what is not given is NULL, OPTION_UNSET or NAN, and comes from the
 * configuration
 * (`config`, where that is an experiment), else from the run of `lora`, else it is the command's default. */
struct session_options {
	const char *model, *lora, *solver, *grid, *timesteps, *negative, *dtype, *vae_dtype, *device,
	    *text_cache;
	int64_t steps, batch, threads, text_length, vae_batch, height, width;
	double guidance, shift, eta;
};
#define SESSION_DEFAULTS                                                                                     \
	{                                                                                                    \
		.steps = OPTION_UNSET, .batch = OPTION_UNSET, .text_length = OPTION_UNSET,                   \
		.vae_batch = OPTION_UNSET, .height = OPTION_UNSET, .width = OPTION_UNSET, .guidance = NAN,   \
		.shift = NAN, .eta = NAN                                                                     \
	}
/* The rows of an option table that fill a struct session_options o. */
#define SESSION_OPTIONS(o)                                                                                   \
	{ "model", 's', &(o).model, "DIR", "the model directory (default: the one of --lora's run)" },       \
	    { "lora", 's', &(o).lora, "PATH",                                                                \
	      "an adapter (PEFT, diffusers, kohya), a checkpoint or a run" },                                \
	    { "solver", 's', &(o).solver, "NAME",                                                            \
	      SOLVER_CHOICES " with a slash in it (default: the run's, or euler)" },                         \
	    { "eta", 'r', &(o).eta, "X",                                                                     \
	      "noise that a stochastic solver adds (default: the run's, or its own)" },                      \
	    { "steps", 'i', &(o).steps, "N", "sampling steps (default: the run's, or 40)" },                 \
	    { "guidance", 'r', &(o).guidance, "X",                                                           \
	      "classifier-free guidance scale (default: the run's, or 1: none)" },                           \
	    { "negative", 's', &(o).negative, "TEXT", "negative prompt (default: the run's, or empty)" },    \
	    { "shift", 'r', &(o).shift, "X", "timestep shift (default: the run's, or the model's)" },        \
	    { "grid", 's', &(o).grid, "NAME",                                                                \
	      "noise levels: diffusers (as the model's pipeline there) or even (1 - i / steps, shifted); "   \
	      "default: the run's, or diffusers" },                                                          \
	    { "timesteps", 's', &(o).timesteps, "KIND",                                                      \
	      "what the transformer is told of a level: float (1000 sigma) or integer (its whole part); "    \
	      "default: the run's, or float" },                                                              \
	    { "height", 'i', &(o).height, "PIXELS",                                                          \
	      "image height (default: the run's, or the model's own)" },                                     \
	    { "width", 'i', &(o).width, "PIXELS", "image width (default: the run's, or the model's own)" },  \
	    { "batch", 'i', &(o).batch, "N", "images at a time (default: the run's, or 32)" },               \
	    { "text-length", 'i', &(o).text_length, "N",                                                     \
	      "tokens of a prompt that are read (default: the run's, or the model family's; Stable "         \
	      "Diffusion 3: 256 for T5)" },                                                                  \
	    { "t5-length", 'i', &(o).text_length, "N", "earlier name of --text-length" },                    \
	    { "text-cache", 's', &(o).text_cache, "DIR",                                                     \
	      "keep prompt embeddings in this folder (default: not kept)" },                                 \
	    { "threads", 'i', &(o).threads, "N",                                                             \
	      "CPU threads per rank (default: OMP_NUM_THREADS, else its share of the cores)" },              \
	    { "dtype", 's', &(o).dtype, "TYPE", "type of the weights (default: the run's, or float32)" },    \
	    { "vae-dtype", 's', &(o).vae_dtype, "TYPE",                                                      \
	      "type in which images are decoded (default: the run's, or float32)" },                         \
	    { "vae-batch", 'i', &(o).vae_batch, "N",                                                         \
	      "images decoded at a time (default: the run's, or 1)" },                                       \
	{                                                                                                    \
		"device", 's', &(o).device, "NAME",                                                          \
		    "auto, cpu or cuda (default: the run's, or auto: a GPU if there is one)"                 \
	}

/* What is used, nothing left out. */
struct session_settings {
	struct session_options o;
	bool cuda_graphs;
	char *from;          /* the configuration that what was not given comes from; NULL: none */
	struct experiment x; /* the same, of one stage: the checkpoint's, else the last; only with `from` */
};
/* `config`: a configuration, or NULL; one without model.path has no say in how images are sampled.  On an
 * error there is nothing to release. */
int session_settle(struct session_settings *s, const struct session_options *given, const char *config,
		   const char *command, struct err *e);
void session_settings_release(struct session_settings *s);

struct session {
	struct pipeline pipeline;
	struct sampler sampler;
	struct lora_merged merged;
	struct pass pass;
	struct at_dims latent_CHW; /* of an image of the size asked for */
};
/* After startup_threads, which has `threads`. */
int session_open(struct session *s, struct dist *d, const struct session_settings *o, const char *command,
		 struct err *e);
/* The adapter `lora` (NULL: none) of the model that is open, as a pass; *merged is the caller's to release.
 */
int session_adapter(struct session *s, const char *lora, struct lora_merged *merged, struct pass *pass,
		    struct err *e);
/* The sampler anew, for another pass: its CUDA graphs are of the weights of one. */
int session_restart(struct session *s, const struct session_settings *o, struct err *e);
void session_close(struct session *s);
/* What was used, for a result. */
json_t *session_json(const struct session *s, const struct session_settings *o);

#endif
