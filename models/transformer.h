/*
 * transformer.h -- what a transformer of any model family is: latents, a noise level and conditioning in, a
 * velocity out.
 *
 * One constant a class of diffusers, in the family's folder; model_index.json names the class.  Nothing above
 * models/ knows which one it has.  Adding one: docs/extending.md.
 */
#ifndef TRANSFORMER_H
#define TRANSFORMER_H
#include "base/json.h"
#include "models/cond.h"
#include "models/cost.h"
#include "models/nn.h"

#define TRANSFORMER_BLOCKS 256 /* the most that one has */

struct transformer_facts {
	int64_t channels, channels_out;   /* of the latents (B, channels, h, w) and of the velocity */
	int64_t multiple, most_side;      /* h and w are multiples of the one, at most the other */
	int64_t default_side;             /* h and w where nobody asks for a size */
	int64_t blocks;                   /* that gradient checkpointing may compute twice */
	int64_t text_width, pooled_width; /* of the conditioning; 0: it reads none */
	bool guided;                      /* the guidance scale is an input: one forward, no second branch */
};

struct transformer_type {
	const char *class_name; /* of diffusers: "SD3Transformer2DModel" */
	/* The network with the names and sizes of a configuration, which messages call `what`; no weights. *m
	 * is freed by close, which takes NULL. */
	int (*lay_out)(void **m, const json_t *config, const char *what, struct err *e);
	/* And back: a new object without _class_name. */
	json_t *(*config)(const void *m);
	/* Among random weights those that training begins with as something else, such as zeros; NULL: none.
	 */
	void (*start)(void *m);
	void (*close)(void *m);
	struct transformer_facts (*facts)(const void *m);
	struct nn_net *(*net)(void *m);
	/* Image tokens of latents h x w. */
	int64_t (*tokens)(const void *m, int64_t h, int64_t w);
	/* The velocity eps - x0 in the weights' type, as x and c are.  t_B is float32, 1000 sigma;
	 * guidance_B (float32) NULL unless the facts say `guided`.  Differentiable. */
	at_t (*velocity)(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
			 at_t guidance_B);
	/* The attention kernel (at_sdpa_kernel) that such a forward uses, for the log. */
	const char *(*attention)(const void *m, at_t x_BChw, const struct cond *c);
	/* Adds what a forward computes and moves; adapters left out. */
	void (*cost)(const void *m, struct cost *c, const struct cost_shape *s);
};

/* An error lists the classes that there are, after `where`. */
const struct transformer_type *transformer_find(const char *class_name, const char *where, struct err *e);
/* By DIR/config.json's _class_name; the first family's where it has none. */
const struct transformer_type *transformer_of(const char *dir, struct err *e);

/* A transformer and its type: what a pipeline and the commands hold. */
struct transformer {
	const struct transformer_type *type; /* NULL: none is open */
	void *m;
	struct nn_net *net;
	struct transformer_facts facts;
};
/* DIR/config.json and the weights. */
int transformer_open(struct transformer *t, const struct transformer_type *type, const char *dir,
		     enum at_dtype dt, enum at_device dev, struct err *e);
/* The configuration alone: names and shapes, no weights. */
int transformer_describe(struct transformer *t, const struct transformer_type *type, const char *dir,
			 struct err *e);
/* The same by a configuration that is here, which messages call `what`. */
int transformer_lay_out(struct transformer *t, const struct transformer_type *type, const json_t *config,
			const char *what, struct err *e);
/* Random weights by a configuration, which messages call `what`; float32, on the CPU. */
int transformer_make(struct transformer *t, const struct transformer_type *type, const json_t *config,
		     const char *what, uint64_t seed, struct err *e);
/* Makes DIR; `merged`, unless NULL, has the weights that an adapter changed. */
int transformer_save(const struct transformer *t, const struct lora_merged *merged, const char *dir,
		     enum at_dtype dt, struct err *e);
void transformer_close(struct transformer *t);
/* A side of latents: a multiple of what it must be, and not too large; `what` names it in the error. */
int transformer_check_side(const struct transformer *t, int64_t side, const char *what, struct err *e);

#endif
