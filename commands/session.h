/*
 * session.h -- a model and, perhaps, an adapter in its weights or beside them (lora_ready): what sample and
 * eval run on.
 */
#ifndef SESSION_H
#define SESSION_H
#include "dist/dist.h"
#include "models/pipeline.h"
#include "sampler/sample.h"

struct session_options {
	const char *model, *lora, *solver, *grid, *timesteps, *negative, *dtype, *vae_dtype, *device,
	    *text_cache;
	int64_t steps, batch, threads, text_length, vae_batch, height, width;
	double guidance, shift, eta;
};
#define SESSION_DEFAULTS                                                                                     \
	{                                                                                                    \
		.solver = "euler", .grid = "diffusers", .timesteps = "float", .dtype = "float32",            \
		.vae_dtype = "float32", .vae_batch = 1, .device = "auto", .steps = 40, .batch = 32,          \
		.guidance = 1, .eta = -1                                                                     \
	}
/* The rows of an option table that fill a struct session_options o. */
#define SESSION_OPTIONS(o)                                                                                   \
	{ "model", 's', &(o).model, "DIR", "the model directory (default: the one of --lora's run)" },       \
	    { "lora", 's', &(o).lora, "PATH",                                                                \
	      "an adapter (PEFT, diffusers, kohya), a checkpoint or a run" },                                \
	    { "solver", 's', &(o).solver, "NAME", SOLVER_CHOICES " with a slash in it (default euler)" },    \
	    { "eta", 'r', &(o).eta, "X", "noise that a stochastic solver adds (default: its own)" },         \
	    { "steps", 'i', &(o).steps, "N", "sampling steps (default 40)" },                                \
	    { "guidance", 'r', &(o).guidance, "X", "classifier-free guidance scale (default 1: none)" },     \
	    { "negative", 's', &(o).negative, "TEXT", "negative prompt (default: empty)" },                  \
	    { "shift", 'r', &(o).shift, "X", "timestep shift (default: the model's)" },                      \
	    { "grid", 's', &(o).grid, "NAME",                                                                \
	      "noise levels: diffusers (default: as the model's pipeline there) or even (1 - i / steps, "    \
	      "shifted)" },                                                                                  \
	    { "timesteps", 's', &(o).timesteps, "KIND",                                                      \
	      "what the transformer is told of a level: float (default: 1000 sigma) or integer (its whole "  \
	      "part)" },                                                                                     \
	    { "height", 'i', &(o).height, "PIXELS", "image height (default: the model's own)" },             \
	    { "width", 'i', &(o).width, "PIXELS", "image width (default: the model's own)" },                \
	    { "batch", 'i', &(o).batch, "N", "images at a time (default 32)" },                              \
	    { "text-length", 'i', &(o).text_length, "N",                                                     \
	      "tokens of a prompt that are read (default: the model family's; Stable Diffusion 3: 256 for "  \
	      "T5)" },                                                                                       \
	    { "t5-length", 'i', &(o).text_length, "N", "earlier name of --text-length" },                    \
	    { "text-cache", 's', &(o).text_cache, "DIR",                                                     \
	      "keep prompt embeddings in this folder (default: not kept)" },                                 \
	    { "threads", 'i', &(o).threads, "N",                                                             \
	      "CPU threads per rank (default: OMP_NUM_THREADS, else its share of the cores)" },              \
	    { "dtype", 's', &(o).dtype, "TYPE", "type of the weights (default float32)" },                   \
	    { "vae-dtype", 's', &(o).vae_dtype, "TYPE",                                                      \
	      "type in which images are decoded (default float32)" },                                        \
	    { "vae-batch", 'i', &(o).vae_batch, "N", "images decoded at a time (default 1)" },               \
	{                                                                                                    \
		"device", 's', &(o).device, "NAME",                                                          \
		    "auto, cpu or cuda (default auto: a GPU if there is one)"                                \
	}

struct session {
	struct pipeline pipeline;
	struct sampler sampler;
	struct lora_merged merged;
	struct pass pass;
	struct at_dims latent_CHW; /* of an image of the size asked for */
};
/* After startup_threads, which has `threads`. */
int session_open(struct session *s, struct dist *d, const struct session_options *o, const char *command,
		 struct err *e);
void session_close(struct session *s);

#endif
