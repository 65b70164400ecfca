/* nn.c -- parameters with names, and the linear that every network here is made of. */
#include "models/nn.h"
#include "models/lora/fp8.h"
#include "models/lora/lora.h"
#include "models/lora/lora_names.h"
#include "base/file.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Laying out ------------------------------------------------------------------------------ */

static struct nn_param *add_param(struct nn_net *n, at_t *slot, char *name, struct at_dims shape)
{
	struct nn_param *p = &MEM_PUSH(n->param, n->n_param, n->cap_param);

	*p = (struct nn_param) { .name = name, .tensor = slot, .shape = shape, .trainable = true };
	return p;
}

void nn_add_tensor(struct nn_net *n, at_t *slot, const char *name, struct at_dims shape, bool trainable)
{
	struct nn_param *p = add_param(n, slot, mem_str(name), shape);

	*slot = NULL;
	p->trainable = trainable;
	p->fan_in = shape.n > 1;
	for (int i = 1; i < shape.n; i++)
		p->fan_in *= shape.d[i];
}

void nn_add_last_frame(struct nn_net *n, at_t *slot, const char *name, struct at_dims shape)
{
	nn_add_tensor(n, slot, name, shape, true);
	n->param[n->n_param - 1].last_frame = true;
}

void nn_begin_block(struct nn_net *n)
{
	n->blocks++;
	n->in_block = true;
}

void nn_end_blocks(struct nn_net *n)
{
	n->in_block = false;
}

void nn_reads(struct nn_net *n, enum nn_reads reads)
{
	n->reads = reads;
}

void nn_add_linear(struct nn_net *n, struct nn_linear *l, int parts, const char *const *name,
		   const int64_t *out, int64_t in, bool bias)
{
	struct nn_site *s = &MEM_PUSH(n->site, n->n_site, n->cap_site);

	*s = (struct nn_site) { .linear = l,
				.parts = parts,
				.in = in,
				.block = n->in_block ? n->blocks - 1 : -1,
				.reads = n->reads };
	*l = (struct nn_linear) { .site = n->n_site - 1 };
	for (int i = 0; i < parts; i++) {
		s->name[i] = mem_str(name[i]);
		s->row[i + 1] = s->row[i] + out[i];
		for (int k = 0; k < (bias ? 2 : 1); k++) {
			char *file_name = mem_printf("%s.%s", name[i], k ? "bias" : "weight");
			struct at_dims shape = k ? DIMS(out[i]) : DIMS(out[i], in);
			struct nn_param *p = add_param(n, k ? &l->b_O : &l->w_OI, file_name, shape);

			p->row = s->row[i];
			p->rows = out[i];
			p->fan_in = in;
		}
	}
}

void nn_add_stack(struct nn_net *n, struct nn_linear *l, int parts, const char *prefix,
		  const char *const *name, int64_t out, int64_t in, bool bias)
{
	char *full[NN_PARTS] = { 0 };
	int64_t rows[NN_PARTS] = { 0 };

	for (int i = 0; i < parts; i++) {
		full[i] = mem_printf("%s%s", prefix, name[i]);
		rows[i] = out;
	}
	nn_add_linear(n, l, parts, (const char *const *)full, rows, in, bias);
	for (int i = 0; i < parts; i++)
		free(full[i]);
}

void nn_alias(struct nn_net *n, const char *name)
{
	n->param[n->n_param - 1].alias = mem_str(name);
}

void nn_alias_bare(struct nn_net *n, const char *prefix)
{
	size_t len = strlen(prefix);

	for (int i = 0; i < n->n_param; i++)
		if (!strncmp(n->param[i].name, prefix, len) && !n->param[i].alias)
			n->param[i].alias = mem_str(n->param[i].name + len);
}

void nn_ignore(struct nn_net *n, const char *name)
{
	MEM_PUSH(n->ignored, n->n_ignored, n->cap_ignored) = mem_str(name);
}

void nn_release(struct nn_net *n)
{
	for (int i = 0; i < n->n_param; i++) {
		at_free(*n->param[i].tensor);
		*n->param[i].tensor = NULL;
		free(n->param[i].name);
		free(n->param[i].alias);
	}
	for (int i = 0; i < n->n_ignored; i++)
		free(n->ignored[i]);
	free(n->ignored);
	for (int i = 0; i < n->n_site; i++)
		for (int k = 0; k < n->site[i].parts; k++)
			free(n->site[i].name[k]);
	free(n->param);
	free(n->site);
	*n = (struct nn_net) { 0 };
}

/* A parameter's shape here, where the file may have more. */
static struct at_dims kept_shape(const struct nn_param *p)
{
	const int64_t *d = p->shape.d;

	return p->last_frame ? DIMS(d[0], d[1], d[3], d[4]) : p->shape;
}

static int64_t elements(const struct nn_param *p)
{
	struct at_dims shape = kept_shape(p);
	int64_t count = 1;

	for (int i = 0; i < shape.n; i++)
		count *= shape.d[i];
	return count;
}

int64_t nn_count(const struct nn_net *n)
{
	int64_t total = 0;

	for (int i = 0; i < n->n_param; i++)
		total += elements(&n->param[i]);
	return total;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Uninitialised tensors in all slots, stacked where several parameters share one. */
static void allocate(struct nn_net *n, enum at_dtype dt, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int i = 0; i < n->n_param; i++) {
		struct nn_param *p = &n->param[i];
		struct at_dims shape = kept_shape(p);

		if (*p->tensor)
			continue;
		for (int k = i; p->rows && k < n->n_param; k++)
			if (n->param[k].tensor == p->tensor &&
			    n->param[k].row + n->param[k].rows > shape.d[0])
				shape.d[0] = n->param[k].row + n->param[k].rows;
		*p->tensor = at_keep(at_empty(shape, dt, dev));
	}
	at_end(s);
}

/* The parameter's own rows, in the shape that the file has: a view. */
static at_t rows_of(const struct nn_param *p, at_t whole)
{
	return p->rows ? at_narrow(whole, 0, p->row, p->rows) : whole;
}

static at_t values(const struct nn_param *p)
{
	return rows_of(p, *p->tensor);
}

static bool is_real(enum at_dtype dt)
{
	return dt == AT_F32 || dt == AT_F64 || dt == AT_F16 || dt == AT_BF16;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_extra(const struct nn_net *n, const struct st_file *f, struct err *e)
{
	const char **known = mem_zero((size_t)(2 * n->n_param + n->n_ignored), sizeof *known);
	size_t n_known = 0;
	int ret = 0;

	for (int i = 0; i < n->n_param; i++) {
		known[n_known++] = n->param[i].name;
		if (n->param[i].alias)
			known[n_known++] = n->param[i].alias;
	}
	for (int i = 0; i < n->n_ignored; i++)
		known[n_known++] = n->ignored[i];
	qsort(known, n_known, sizeof *known, by_name);
	for (int i = 0; i < f->n && !ret; i++)
		if (!bsearch(&f->entry[i].name, known, n_known, sizeof *known, by_name))
			ret = err_set(e, "%s: tensor '%s' does not belong to this model", f->path,
				      f->entry[i].name);
	free(known);
	return ret;
}

static const char *name_in(const struct nn_param *p, const struct st_file *f)
{
	return p->alias && !st_find(f, p->name) && st_find(f, p->alias) ? p->alias : p->name;
}

/* A file with the names of the original release, which nothing here reads: better said than that a tensor is
 * missing. */
static int check_release(const struct nn_net *n, const struct st_file *f, struct err *e)
{
	for (int i = 0; i < f->n; i++)
		if (lora_is_original(n, f->entry[i].name) && !st_find(f, n->param[0].name))
			return err_set(e,
				       "%s: tensor '%s' is named as the original release has it: the "
				       "weights must be in diffusers' layout, which its from_single_file "
				       "and save_pretrained make of them",
				       f->path, f->entry[i].name);
	return 0;
}

/* The file's tensor for a parameter, a view of its bytes. */
static int find_one(const struct nn_param *p, const struct st_file *f, at_t *t, struct err *e)
{
	const char *name = name_in(p, f);

	if (st_take(t, f, name, p->shape, e))
		return -1;
	return is_real(at_dtype_of(*t)) ? 0
					: err_set(e,
						  "%s: tensor '%s' is %s: a weight must be a floating-point "
						  "number",
						  f->path, name, at_dtype_name(at_dtype_of(*t)));
}

static int load_one(const struct nn_param *p, const struct st_file *f, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = NULL;
	int ret = find_one(p, f, &t, e);

	if (!ret) {
		at_copy_(values(p), p->last_frame ? at_select(t, 2, p->shape.d[2] - 1) : t);
		st_forget(st_find(f, name_in(p, f)));
	}
	at_end(s);
	return ret;
}

int nn_folder(const char *dir, struct err *e)
{
	return file_is_dir(dir)
		   ? 0
		   : err_set(e, "%s: no such folder: docs/sd35.md says where weights come from", dir);
}

int nn_check_dir(const struct nn_net *n, const char *dir, const char *stem, const char *variant,
		 struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_file f;
	at_t unused;
	int ret = st_open_model(&f, dir, stem, variant, e);

	if (!ret) {
		ret = check_release(n, &f, e);
		for (int i = 0; i < n->n_param && !ret; i++)
			ret = find_one(&n->param[i], &f, &unused, e);
		ret = ret ? ret : check_extra(n, &f, e);
		st_close(&f);
	}
	at_end(s);
	return ret;
}

int nn_load(struct nn_net *n, const struct st_file *f, enum at_dtype dt, enum at_device dev, struct err *e)
{
	if (check_release(n, f, e))
		return -1;
	allocate(n, dt, dev);
	for (int i = 0; i < n->n_param; i++)
		if (load_one(&n->param[i], f, e))
			return -1;
	return check_extra(n, f, e);
}

int nn_load_dir(struct nn_net *n, const char *dir, const char *stem, const char *variant, enum at_dtype dt,
		enum at_device dev, struct err *e)
{
	struct st_file f;
	int ret = st_open_model(&f, dir, stem, variant, e);

	if (!ret) {
		ret = nn_load(n, &f, dt, dev, e);
		st_close(&f);
	}
	return ret;
}

/* The weight that stands for *slot in `merged`, or *slot. */
static at_t merged_or_own(const struct nn_net *n, const struct lora_merged *merged, const at_t *slot)
{
	for (int i = 0; merged && i < n->n_site; i++)
		if (&n->site[i].linear->w_OI == slot && merged->w[i])
			return merged->w[i];
	return *slot;
}

int nn_save(const struct nn_net *n, const struct lora_merged *merged, const char *path, enum at_dtype dt,
	    struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_item *item = mem_zero((size_t)n->n_param, sizeof *item);
	struct st_meta_item meta = { "format", "pt" }; /* what diffusers looks for */
	int ret;

	for (int i = 0; i < n->n_param; i++)
		item[i] = (struct st_item) {
			n->param[i].name,
			at_cast(rows_of(&n->param[i], merged_or_own(n, merged, n->param[i].tensor)), dt)
		};
	ret = st_write(path, item, n->n_param, &meta, 1, e);
	free(item);
	at_end(s);
	return ret;
}

void nn_move(struct nn_net *n, enum at_dtype dt, enum at_device dev)
{
	for (int i = 0; i < n->n_param; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);

		/* one by one, so that both copies are never there whole; stacked parameters share one tensor
		 */
		at_set(n->param[i].tensor, at_to(*n->param[i].tensor, dt, dev));
		at_end(s);
	}
}

struct init {
	const struct nn_net *net;
	float **v; /* where each parameter's numbers lie */
	uint64_t seed;
};

static void draw(void *ctx, int64_t from, int64_t to)
{
	const struct init *c = ctx;

	for (int64_t i = from; i < to; i++) {
		const struct nn_param *p = &c->net->param[i];
		double bound = p->fan_in ? 1 / sqrt((double)p->fan_in) : 0;
		struct rng r = rng_make(c->seed, RNG_MODEL_INIT, 0, (uint64_t)i);
		int64_t count = elements(p);

		for (int64_t k = 0; k < count; k++)
			c->v[i][k] = !p->trainable ? 0
				     : p->fan_in   ? (float)((2 * rng_uniform(&r) - 1) * bound)
						   : 1;
	}
}

/* Each parameter has a stream of its own, so threads may share the work: billions of numbers take a minute
 * on one. */
void nn_init(struct nn_net *n, uint64_t seed)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct init c = { n, mem_zero((size_t)n->n_param, sizeof *c.v), seed };

	allocate(n, AT_F32, AT_CPU);
	for (int i = 0; i < n->n_param; i++)
		c.v[i] = at_f32(values(&n->param[i])); /* whole rows, so contiguous */
	at_parallel(n->n_param, 1, draw, &c);
	free(c.v);
	at_end(s);
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* In 16 bits, as policies without gradients run (lora_beside): the same bits. */
static at_t with_pairs_rounded(const struct nn_linear *l, const struct lora *lora, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t a_RI, b_OR;

	lora_stack_as(lora, l->site, at_dtype_of(x), &a_RI, &b_OR);
	return at_return(s, at_linear_low_rank(x, l->w_OI, l->b_O, a_RI, b_OR, NULL));
}

static at_t with_pairs(const struct nn_linear *l, const struct lora *lora, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	enum at_dtype dt = at_dtype_of(x);
	struct at_dims shape = at_shape(x);
	at_t x_TI = at_reshape(x, DIMS(-1, shape.d[shape.n - 1])), a_RI, b_OR, y_TO;
	double scale;

	if (at_dtype_size(dt) == 2)
		return at_return(s, with_pairs_rounded(l, lora, x));
	scale = lora_stack(lora, l->site, &a_RI, &b_OR);
	y_TO = at_addmm_(at_linear(x_TI, l->w_OI, l->b_O), at_linear(x_TI, at_cast(a_RI, dt), NULL),
			 at_transpose(at_cast(b_OR, dt), 0, 1), 1, scale);
	shape.d[shape.n - 1] = at_size(y_TO, 1);
	return at_return(s, at_view(y_TO, shape));
}

static bool has_pairs(const struct nn_linear *l, const struct pass *p)
{
	return p && l->site >= 0 && p->lora && lora_touches(p->lora, l->site);
}

static bool is_fp8(const struct nn_linear *l, const struct pass *p)
{
	return p && l->site >= 0 && p->fp8 && p->fp8->bytes_OI[l->site];
}

static bool has_pairs_beside(const struct nn_linear *l, const struct pass *p)
{
	return p && l->site >= 0 && p->merged && p->merged->a_RI[l->site];
}

/* Pairs that lie beside the weight, which may be in 8 bits: those in it are the base's. */
static at_t beside(const struct nn_linear *l, const struct pass *p, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t a_RI = p->merged->a_RI[l->site], wide_OK = p->merged->wide_OK[l->site];
	int64_t rank = at_size(a_RI, 0), before = at_size(wide_OK, 1) - rank; /* 0: without the weight */
	at_t b_OR = at_narrow(wide_OK, 1, before, rank);

	if (!is_fp8(l, p))
		return at_return(s,
				 at_linear_low_rank(x, l->w_OI, l->b_O, a_RI, b_OR, before ? wide_OK : NULL));
	at_t y = at_linear_fp8(x, p->fp8->bytes_OI[l->site], p->fp8->scale_O[l->site], l->b_O);
	at_t h_TR = at_linear(at_reshape(x, DIMS(-1, at_size(x, -1))), a_RI, NULL);
	at_t y_TO = at_view(y, DIMS(-1, at_size(y, -1)));
	return at_return(s, at_view(at_addmm_(y_TO, h_TR, at_transpose(b_OR, 0, 1), 1, 1), at_shape(y)));
}

static at_t weight(const struct nn_linear *l, const struct pass *p)
{
	return p && l->site >= 0 && p->merged && p->merged->w[l->site] ? p->merged->w[l->site] : l->w_OI;
}

at_t nn_linear(const struct nn_linear *l, const struct pass *p, at_t x)
{
	if (has_pairs(l, p))
		return with_pairs(l, p->lora, x);
	if (has_pairs_beside(l, p))
		return beside(l, p, x);
	if (is_fp8(l, p))
		return at_linear_fp8(x, p->fp8->bytes_OI[l->site], p->fp8->scale_O[l->site], l->b_O);
	return at_linear(x, weight(l, p), l->b_O);
}

at_t nn_linear_gelu(const struct nn_linear *l, const struct pass *p, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, has_pairs(l, p) || has_pairs_beside(l, p) || is_fp8(l, p)
				? at_gelu(nn_linear(l, p, x), true)
				: at_linear_gelu(x, weight(l, p), l->b_O));
}
