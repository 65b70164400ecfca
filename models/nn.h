/*
 * nn.h -- what every network is made of: parameters with names, linears that an adapter can change, and how a
 * forward is run.
 *
 * A linear may hold several of the checkpoint's modules stacked by rows (to_q, to_k, to_v are one product
 * here); each is a *part* with its own name in files and its own adapter pair.
 */
#ifndef NN_H
#define NN_H
#include "aten/at.h"
#include "aten/safetensors.h"
#include "base/err.h"
#include "base/rng.h"

#define NN_PARTS        3
#define NN_DIFFUSERS    "diffusion_pytorch_model"   /* the weights' stem in a folder of diffusers */
#define NN_TRANSFORMERS "model"                     /* and of transformers */
#define NN_WEIGHTS      NN_DIFFUSERS ".safetensors" /* as we write them */

struct nn_linear {
	at_t w_OI, b_O; /* kept; b_O NULL: no bias.  O: the parts' rows, stacked */
	int site;       /* index into struct nn_net's sites; set by nn_add_linear */
};

/* What a linear is applied to: a vector a sample, or each of its image tokens, its text tokens or both. */
enum nn_reads { NN_SAMPLES, NN_IMAGE, NN_TEXT, NN_BOTH };

/*
 * What other programs call a module: the names of a model's original release, with underscores for dots, as
 * sd-scripts and ComfyUI keep them.  `#` stands for a block's number in both.  Its rows may have their halves
 * swapped there: always, or where it has just two rows for each column (a modulation of shift and scale
 * alone).
 */
struct nn_rename {
	const char *here, *there; /* here NULL ends a table */
	enum nn_halves { NN_AS_HERE, NN_SWAPPED, NN_SWAPPED_IF_TWO } halves;
};

/* One adaptable linear. */
struct nn_site {
	struct nn_linear *linear;
	int parts;
	char *name[NN_PARTS];      /* "transformer_blocks.0.attn.to_q" */
	int64_t row[NN_PARTS + 1]; /* part i holds rows row[i] .. row[i+1] */
	int64_t in;
	int block; /* of the network, from 0; -1: in none */
	enum nn_reads reads;
};

/* One tensor of the checkpoint: `rows` rows from `row` of *tensor (rows 0: the whole tensor). */
struct nn_param {
	char *name, *alias; /* alias: NULL, or what some files call it */
	at_t *tensor;
	int64_t row, rows;
	struct at_dims shape; /* as in the file */
	bool trainable;       /* false for buffers such as pos_embed */
	bool last_frame;      /* nn_add_last_frame's: *tensor has no third dimension */
	int64_t fan_in;       /* of nn_init: uniform +-1/sqrt(fan_in); 0: ones */
};

/* The list of a network's parameters and sites, built once when its structs are laid out. */
struct nn_net {
	int n_param, cap_param;
	struct nn_param *param;
	int n_site, cap_site;
	struct nn_site *site;
	int n_ignored, cap_ignored;
	char **ignored; /* tensors of a file that nothing reads */
	int blocks;     /* begun so far: where nn_add_linear puts what it is given */
	bool in_block;
	enum nn_reads reads;
	const struct nn_rename *names; /* NULL: it has no other names */
	/* What trains such a network with sd-scripts or musubi-tuner; NULL: nothing does.  Without `names`
	 * its modules are called there as here. */
	const char *trainer;
};

struct lora;
struct lora_merged;
struct fp8_weights;

/* How a forward is run.  DiffusionNFT's policies are three of these; {0} is the frozen base model. */
struct pass {
	const struct lora *lora;          /* pairs added as products run: y += scale * (x A^T) B^T */
	const struct lora_merged *merged; /* or weights that have the pairs in them or beside them already */
	const struct fp8_weights *fp8;    /* of the base or of merged; without gradients only */
	/* With gradients: so many blocks, from the first, keep their inputs alone and run again in the
	 * backward. The first, because the backward comes to them last, when the others' activations have
	 * gone. */
	int64_t checkpoint_blocks;
};

at_t nn_linear(const struct nn_linear *l, const struct pass *p, at_t x);
at_t nn_linear_gelu(const struct nn_linear *l, const struct pass *p, at_t x); /* gelu (tanh) of it */

/* Laying out: registers a linear of `parts` modules name[i] of out[i] rows, weights still absent (NULL). */
void nn_add_linear(struct nn_net *n, struct nn_linear *l, int parts, const char *const *name,
		   const int64_t *out, int64_t in, bool bias);
/* The same for modules of one width, `out` rows each, named PREFIX + name[i]. */
void nn_add_stack(struct nn_net *n, struct nn_linear *l, int parts, const char *prefix,
		  const char *const *name, int64_t out, int64_t in, bool bias);
/* One whole tensor. */
void nn_add_tensor(struct nn_net *n, at_t *slot, const char *name, struct at_dims shape, bool trainable);
/* A convolution over time (O, I, T, h, w), of which (O, I, h, w) is kept: all that a causal one does with a
 * first frame, before which there are zeros.  Such a network is not saved. */
void nn_add_last_frame(struct nn_net *n, at_t *slot, const char *name, struct at_dims shape);

/* What is added from here on belongs to the next block, and to none after nn_end_blocks. */
void nn_begin_block(struct nn_net *n);
void nn_end_blocks(struct nn_net *n);
/* What the linears added from here on are applied to; at first NN_SAMPLES. */
void nn_reads(struct nn_net *n, enum nn_reads reads);

/* The parameter added last has this name in some files; where a file has both, its own name counts. */
void nn_alias(struct nn_net *n, const char *name);
/* Every parameter so far whose name begins with `prefix` may be without it in files. */
void nn_alias_bare(struct nn_net *n, const char *prefix);
/* A tensor that files may hold and nobody needs. */
void nn_ignore(struct nn_net *n, const char *name);

/* Fills every parameter from a file: missing, extra, misshapen and mistyped tensors are errors that name
 * them. Values are copied, converted, one tensor at a time, and the file's pages given back: the network
 * neither changes nor faults when the file does, and loading needs the network's own size and no more. */
int nn_load(struct nn_net *n, const struct st_file *f, enum at_dtype dt, enum at_device dev, struct err *e);
/* A folder of weights is there; if not, the message says where such come from. */
int nn_folder(const char *dir, struct err *e);
/* What of this can be said without reading a weight. */
int nn_check_dir(const struct nn_net *n, const char *dir, const char *stem, const char *variant,
		 struct err *e);
/* nn_load from a folder in any layout (st_open_model). */
int nn_load_dir(struct nn_net *n, const char *dir, const char *stem, const char *variant, enum at_dtype dt,
		enum at_device dev, struct err *e);
/* Every parameter under its file name, with the merged weights (or NULL) for those they stand for. Atomic. */
int nn_save(const struct nn_net *n, const struct lora_merged *merged, const char *path, enum at_dtype dt,
	    struct err *e);
/* Random weights as PyTorch's defaults draw them (linears uniform +-1/sqrt(in)), float32 on the CPU; for
 * pretraining and for tests.  Buffers are made but left at zero: the caller fills them. */
void nn_init(struct nn_net *n, uint64_t seed);
int64_t nn_count(const struct nn_net *n);                             /* elements of all parameters */
void nn_move(struct nn_net *n, enum at_dtype dt, enum at_device dev); /* every tensor, in place */
void nn_release(struct nn_net *n); /* frees names, lists and the tensors in the slots */

#endif
