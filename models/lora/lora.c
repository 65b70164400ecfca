/*
 * lora.c -- adapters: one flat vector, pairs that are views of it, and weights merged from them.
 * Shapes: P all values, R rank, I and O a module's inputs and outputs.
 */
#include "models/lora/lora.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const lora_form_names[] = { "auto", "always", "never", "lean", NULL };
static const char *const inits[] = { "gaussian", "kaiming", NULL };

const struct field lora_fields[] = {
	FIELD(struct lora_conf, rank, .init = "32", .min = 1, .max = 4096,
	      .doc = "rank of each adapter pair"),
	FIELD(struct lora_conf, alpha, .init = "64", .min = 0, .max = 1e6,
	      .doc = "numerator of the scale alpha / rank"),
	FIELD(struct lora_conf, init, .init = "gaussian", .choices = inits,
	      .doc = "how A is initialised (B is zero): gaussian: normal with std 1 / rank; kaiming: PEFT's "
		     "default"),
	FIELD(struct lora_conf, start, .init = "",
	      .doc =
		  "adapter to start from (PEFT, diffusers or kohya, a checkpoint or a run); its rank, alpha "
		  "and modules replace those given here; empty: a new adapter"),
	FIELD(struct lora_conf, targets,
	      .init = "attn.to_q, attn.to_k, attn.to_v, attn.to_out.0, attn.add_q_proj, attn.add_k_proj, "
		      "attn.add_v_proj, attn.to_add_out",
	      .min = 1, .max = 1000,
	      .doc = "modules that get a LoRA pair: full names, or their last parts (attn.to_q)"),
	FIELD_END,
};

/* ---- Structure ------------------------------------------------------------------------------- */

/* Which module a pair is on, while sorting. */
struct place {
	const char *name;
	int site, part;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct place *)a)->name, ((const struct place *)b)->name);
}

/* Sorts the chosen modules by name, so that the layout of the flat vector does not depend on this program's
 * order. */
static struct place *places(const struct nn_net *net, const struct lora_size *size, int *n)
{
	struct place *v = mem_zero((size_t)(net->n_site * NN_PARTS), sizeof *v);

	*n = 0;
	for (int i = 0; i < net->n_site; i++)
		for (int k = 0; k < net->site[i].parts; k++)
			if (size[i * NN_PARTS + k].rank)
				v[(*n)++] = (struct place) { net->site[i].name[k], i, k };
	qsort(v, (size_t)*n, sizeof *v, by_name);
	return v;
}

static at_t view_of(at_t flat_P, int64_t *at, int64_t rows, int64_t columns)
{
	at_t part = at_narrow(flat_P, 0, *at, rows * columns);

	*at += rows * columns;
	return at_keep(at_view(part, DIMS(rows, columns)));
}

void lora_lay_out(struct lora *l, const struct nn_net *net, const struct lora_size *size, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t at = 0;
	int n;
	struct place *place = places(net, size, &n);

	*l = (struct lora) { .net = net, .n = n };
	l->pair = mem_zero((size_t)n, sizeof *l->pair);
	l->at = mem_alloc((size_t)(net->n_site * NN_PARTS) * sizeof *l->at);
	for (int i = 0; i < net->n_site * NN_PARTS; i++)
		l->at[i] = -1;
	for (int i = 0; i < n; i++) {
		const struct nn_site *site = &net->site[place[i].site];
		int part = place[i].part, slot = place[i].site * NN_PARTS + part;

		l->pair[i] = (struct lora_pair) { .site = place[i].site, .part = part, .size = size[slot] };
		l->at[slot] = i;
		l->numel += size[slot].rank * (site->in + site->row[part + 1] - site->row[part]);
	}
	l->flat = at_keep(at_zeros(DIMS(l->numel), AT_F32, dev));
	for (int i = 0; i < n; i++) {
		const struct nn_site *site = &net->site[place[i].site];
		int part = place[i].part;
		int64_t rank = l->pair[i].size.rank;

		l->pair[i].a_RI = view_of(l->flat, &at, rank, site->in);
		l->pair[i].b_OR = view_of(l->flat, &at, site->row[part + 1] - site->row[part], rank);
	}
	free(place);
	at_end(s);
}

/* As PEFT matches: the whole name, or what follows one of its dots. */
static bool matches(const char *module, const struct conf_list *targets)
{
	for (int i = 0; i < targets->n; i++) {
		const char *t = targets->v[i];
		size_t n = strlen(module), k = strlen(t);

		if (!strcmp(module, t) || (n > k && module[n - k - 1] == '.' && !strcmp(module + n - k, t)))
			return true;
	}
	return false;
}

/* A name in the list that no module has: said once, because its modules are not trained. */
static void warn_of_idle(const struct nn_net *net, const struct conf_list *targets)
{
	for (int t = 0; t < targets->n; t++) {
		const struct conf_list one = { &targets->v[t], 1 };
		bool found = false;

		for (int i = 0; i < net->n_site; i++)
			for (int k = 0; k < net->site[i].parts; k++)
				found |= matches(net->site[i].name[k], &one);
		if (!found)
			log_warn_once("lora.targets: no module matches '%s': it is passed over",
				      targets->v[t]);
	}
}

/* The names without "something.NUMBER.": each once. */
static int no_match(const struct nn_net *net, const struct conf_list *targets, struct err *e)
{
	struct text wanted = { 0 }, known = { 0 };

	for (int i = 0; i < targets->n; i++)
		text_printf(&wanted, "%s%s", i ? ", " : "", targets->v[i]);
	text_add(&known, " ");
	for (int i = 0; i < net->n_site; i++)
		for (int k = 0; k < net->site[i].parts; k++) {
			const char *name = net->site[i].name[k], *dot = strchr(name, '.');

			if (dot && strspn(dot + 1, "0123456789") &&
			    dot[1 + strspn(dot + 1, "0123456789")] == '.')
				name = dot + 2 + strspn(dot + 1, "0123456789");
			char *word = mem_printf(" %s ", name);
			if (!strstr(known.s, word))
				text_add(&known, word + 1);
			free(word);
		}
	known.s[known.n - 1] = '\0'; /* the space behind the last */
	err_set(e, "lora.targets: no module matches %s; there are:%s", wanted.s ? wanted.s : "an empty list",
		known.s);
	text_free(&wanted);
	text_free(&known);
	return -1;
}

/* The A of one pair: out has room for R * I values. */
static void draw(float *out, size_t n, const struct lora_conf *c, double bound, struct rng r)
{
	bool gaussian = strcmp(c->init, "kaiming");

	if (gaussian)
		rng_normals(&r, out, n);
	for (size_t i = 0; i < n; i++)
		out[i] =
		    (float)(gaussian ? (double)out[i] / (double)c->rank : (2 * rng_uniform(&r) - 1) * bound);
}

int lora_init(struct lora *l, const struct nn_net *net, const struct lora_conf *c, uint64_t seed,
	      enum at_device dev, struct err *e)
{
	struct lora_size *size = mem_zero((size_t)(net->n_site * NN_PARTS), sizeof *size);

	*l = (struct lora) { 0 };
	for (int i = 0; i < net->n_site; i++)
		for (int k = 0; k < net->site[i].parts; k++)
			if (matches(net->site[i].name[k], &c->targets))
				size[i * NN_PARTS + k] = (struct lora_size) { c->rank, c->alpha };
	lora_lay_out(l, net, size, dev);
	free(size);
	if (!l->n) {
		lora_release(l);
		return no_match(net, &c->targets, e);
	}
	warn_of_idle(net, &c->targets);

	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t host_P = at_zeros(DIMS(l->numel), AT_F32, AT_CPU);
	float *v = at_f32(host_P);
	for (int i = 0; i < l->n; i++) {
		int64_t in = at_numel(l->pair[i].a_RI);

		draw(v, (size_t)in, c, 1 / sqrt((double)net->site[l->pair[i].site].in),
		     rng_make(seed, RNG_LORA_INIT, 0, (uint64_t)i));
		v += in + at_numel(l->pair[i].b_OR);
	}
	at_copy_(l->flat, host_P);
	at_end(s);
	return 0;
}

void lora_copy_init(struct lora *l, const struct lora *from)
{
	struct lora_size *size = mem_zero((size_t)(from->net->n_site * NN_PARTS), sizeof *size);

	for (int i = 0; i < from->n; i++)
		size[from->pair[i].site * NN_PARTS + from->pair[i].part] = from->pair[i].size;
	lora_lay_out(l, from->net, size, at_device_of(from->flat));
	free(size);
	lora_set(l, from);
}

void lora_release(struct lora *l)
{
	for (int i = 0; i < l->n; i++) {
		at_free(l->pair[i].a_RI);
		at_free(l->pair[i].b_OR);
	}
	at_free(l->flat);
	free(l->pair);
	free(l->at);
	*l = (struct lora) { 0 };
}

/* ---- Values ---------------------------------------------------------------------------------- */

void lora_set(struct lora *dst, const struct lora *src)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	at_copy_(dst->flat, src->flat);
	at_end(s);
}

double lora_scale(const struct lora_pair *p)
{
	return p->size.alpha / (double)p->size.rank;
}

const char *lora_module(const struct lora *l, int pair)
{
	return l->net->site[l->pair[pair].site].name[l->pair[pair].part];
}

bool lora_touches(const struct lora *l, int site)
{
	for (int i = 0; i < l->net->site[site].parts; i++)
		if (l->at[site * NN_PARTS + i] >= 0)
			return true;
	return false;
}

/* |B A|^2 = sum of (A A^T) * (B^T B), which are R x R, however large the module. */
double lora_squares(at_t a_RI, at_t b_OR, double scale)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t a = at_cast(a_RI, AT_F64), b = at_cast(b_OR, AT_F64);
	at_t aa_RR = at_matmul(a, at_transpose(a, 0, 1)), bb_RR = at_matmul(at_transpose(b, 0, 1), b);
	double sum = at_item(at_sum(at_mul(aa_RR, bb_RR)));

	at_end(s);
	return scale * scale * sum;
}

double lora_norm(const struct lora *l)
{
	double sum = 0;

	for (int i = 0; i < l->n; i++)
		sum += lora_squares(l->pair[i].a_RI, l->pair[i].b_OR, lora_scale(&l->pair[i]));
	return sqrt(fmax(sum, 0));
}

uint64_t lora_hash(const struct lora *l)
{
	size_t n = (size_t)l->numel * sizeof(float);
	float *v = mem_alloc(n);
	uint64_t hash = 0;

	for (int i = 0; i < l->n; i++) {
		double scale = lora_scale(&l->pair[i]);

		hash = file_hash(&scale, sizeof scale, hash + (uint64_t)l->pair[i].size.rank);
	}
	at_copy_out(l->flat, v, AT_F32);
	hash = file_hash(v, n, hash);
	free(v);
	return hash;
}

/* ---- Training -------------------------------------------------------------------------------- */

void lora_require_grad(struct lora *l)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int i = 0; i < 2 * l->n; i++) {
		at_t *slot = i % 2 ? &l->pair[i / 2].b_OR : &l->pair[i / 2].a_RI;

		at_set(slot, at_detach(*slot)); /* a leaf that shares the storage of flat */
		at_set_requires_grad(*slot, true);
	}
	at_end(s);
}

at_t lora_backward(struct lora *l, at_t loss)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS), *plain;
	size_t n = (size_t)(2 * l->n);
	at_t *leaf = mem_zero(n, sizeof *leaf), *grad = mem_zero(n, sizeof *grad), all_P;

	for (int i = 0; i < l->n; i++) {
		leaf[2 * i] = l->pair[i].a_RI;
		leaf[2 * i + 1] = l->pair[i].b_OR;
	}
	at_grad(loss, 2 * l->n, leaf, grad);
	plain = at_begin(AT_NO_GRAD);
	for (int i = 0; i < 2 * l->n; i++)
		grad[i] = grad[i] ? at_reshape(grad[i], DIMS(-1))
				  : at_zeros(DIMS(at_numel(leaf[i])), AT_F32, at_device_of(l->flat));
	all_P = at_escape(plain, at_cat(2 * l->n, grad, 0)); /* a few kernels, not one a pair */
	at_end(plain);
	free(leaf);
	free(grad);
	return at_return(s, all_P);
}

/* ---- A site's pairs as one ------------------------------------------------------------------------- */

/* One part of a run of sites: its pair or NULL, and its rows. */
struct stacked {
	const struct lora_pair *pair;
	int64_t rows;
};

static int parts_of_run(const struct lora *l, int first, int sites, struct stacked *part)
{
	int n = 0;

	for (int i = first; i < first + sites; i++)
		for (int k = 0; k < l->net->site[i].parts; k++) {
			const int64_t *row = l->net->site[i].row;
			int at = l->at[i * NN_PARTS + k];

			part[n++] = (struct stacked) { at < 0 ? NULL : &l->pair[at], row[k + 1] - row[k] };
		}
	return n;
}

double lora_stack_run(const struct lora *l, int first, int sites, at_t *a_RI, at_t *b_OR)
{
	struct stacked part[LORA_RUN * NN_PARTS];
	at_t a[LORA_RUN * NN_PARTS], b[LORA_RUN * NN_PARTS];
	int64_t all = 0, before = 0;
	double scale = 0;
	bool agree = true;
	int parts = parts_of_run(l, first, sites, part), n = 0;

	for (int i = 0; i < parts; i++)
		if (part[i].pair) {
			double own = lora_scale(part[i].pair);

			agree = agree && (!n || own == scale);
			scale = own;
			all += part[i].pair->size.rank;
			n++;
		}
	for (int i = 0, k = 0; i < parts; i++) {
		const struct lora_pair *p = part[i].pair;

		if (!p) {
			b[i] = at_zeros(DIMS(part[i].rows, all), AT_F32, at_device_of(l->flat));
			continue;
		}
		a[k++] = p->a_RI;
		b[i] = agree ? p->b_OR : at_mul(p->b_OR, lora_scale(p));
		if (n > 1)
			b[i] = at_pad(b[i], DIMS(before, all - before - p->size.rank), 0);
		before += p->size.rank;
	}
	*a_RI = n == 1 ? a[0] : at_cat(n, a, 0);
	*b_OR = parts == 1 ? b[0] : at_cat(parts, b, 0);
	return agree ? scale : 1;
}

double lora_stack(const struct lora *l, int site, at_t *a_RI, at_t *b_OR)
{
	return lora_stack_run(l, site, 1, a_RI, b_OR);
}

void lora_stack_as(const struct lora *l, int site, enum at_dtype dt, at_t *a_RI, at_t *b_OR)
{
	double scale = lora_stack(l, site, a_RI, b_OR);

	*a_RI = at_cast(*a_RI, dt);
	*b_OR = at_cast(scale == 1 ? *b_OR : at_mul(*b_OR, scale), dt);
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* Rows of one part with its pair in them, in float32 (float64 for a float64 model). */
static at_t merged_part(const struct lora *l, int site, int part)
{
	const struct nn_site *t = &l->net->site[site];
	at_t w_OI = at_narrow(t->linear->w_OI, 0, t->row[part], t->row[part + 1] - t->row[part]);
	enum at_dtype dt = at_dtype_of(w_OI) == AT_F64 ? AT_F64 : AT_F32;
	int i = l->at[site * NN_PARTS + part];

	w_OI = at_cast(w_OI, dt);
	if (i < 0)
		return w_OI;
	return at_addmm(w_OI, at_cast(l->pair[i].b_OR, dt), at_cast(l->pair[i].a_RI, dt), 1,
			lora_scale(&l->pair[i]));
}

static void resize(struct lora_merged *m, int n)
{
	if (m->n_site != n || !m->kept)
		lora_merged_release(m);
	if (!m->w)
		m->w = mem_zero((size_t)(3 * n), sizeof *m->w);
	m->wide_OK = m->w + n;
	m->a_RI = m->w + 2 * n;
	m->n_site = n;
}

static void drop(at_t *slot)
{
	at_free(*slot);
	*slot = NULL;
}

/* Into the same memory where there is some of this shape. */
static void put(at_t *slot, at_t value)
{
	if (*slot && !at_shape_is(*slot, at_shape(value)))
		drop(slot);
	if (*slot)
		at_copy_(*slot, value);
	else
		*slot = at_keep(at_clone(value));
}

static void begin_site(struct lora_merged *m, int i, bool in, bool beside)
{
	if (!in)
		drop(&m->w[i]);
	if (!beside) {
		drop(&m->wide_OK[i]);
		drop(&m->a_RI[i]);
	}
}

void lora_merge(struct lora_merged *m, const struct lora *l)
{
	resize(m, l->net->n_site);
	m->kept = true;
	for (int i = 0; i < m->n_site; i++) {
		const struct nn_site *t = &l->net->site[i];
		struct at_scope *s = at_begin(AT_NO_GRAD);

		begin_site(m, i, lora_touches(l, i), false);
		if (lora_touches(l, i) && !m->w[i])
			m->w[i] = at_keep(at_empty_like(t->linear->w_OI));
		for (int k = 0; m->w[i] && k < t->parts; k++)
			at_copy_(at_narrow(m->w[i], 0, t->row[k], t->row[k + 1] - t->row[k]),
				 merged_part(l, i, k));
		at_end(s);
	}
	m->hash = lora_hash(l);
}

void lora_beside(struct lora_merged *m, const struct lora *l, bool copies)
{
	resize(m, l->net->n_site);
	m->kept = true;
	for (int i = 0; i < m->n_site; i++) {
		at_t w_OI = l->net->site[i].linear->w_OI, a_RI, b_OR;
		struct at_scope *s = at_begin(AT_NO_GRAD);

		begin_site(m, i, false, lora_touches(l, i));
		if (lora_touches(l, i)) {
			lora_stack_as(l, i, at_dtype_of(w_OI), &a_RI, &b_OR);
			put(&m->a_RI[i], a_RI);
			put(&m->wide_OK[i], copies ? at_cat2(w_OI, b_OR, 1) : b_OR);
		}
		at_end(s);
	}
	m->hash = lora_hash(l);
}

bool lora_runs_beside(const struct lora_merged *m)
{
	for (int i = 0; i < m->n_site; i++)
		if (m->a_RI[i])
			return true;
	return false;
}

bool lora_rounds(const struct lora *l)
{
	at_t w_OI = l->n ? l->net->site[l->pair[0].site].linear->w_OI : NULL;

	return w_OI && at_dtype_size(at_dtype_of(w_OI)) == 2;
}

void lora_ready(struct lora_merged *m, const struct lora *l, enum lora_form form)
{
	if (form == LORA_LEAN || form == LORA_BESIDE || (form == LORA_AUTO && lora_rounds(l)))
		lora_beside(m, l, form != LORA_LEAN);
	else
		lora_merge(m, l);
}

double lora_survival(const struct lora *l, enum at_dtype dt)
{
	double kept = 0, all = 0;

	for (int i = 0; i < l->n; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		const struct lora_pair *p = &l->pair[i];
		const struct nn_site *t = &l->net->site[p->site];
		at_t w = at_cast(
		    at_narrow(t->linear->w_OI, 0, t->row[p->part], t->row[p->part + 1] - t->row[p->part]),
		    AT_F64);
		at_t d = at_mul(at_matmul(at_cast(p->b_OR, AT_F64), at_cast(p->a_RI, AT_F64)), lora_scale(p));
		at_t became = at_sub(at_cast(at_cast(merged_part(l, p->site, p->part), dt), AT_F64), w);

		kept += at_item(at_sum(at_mul(became, d)));
		all += at_item(at_sum(at_mul(d, d)));
		at_end(s);
	}
	return all > 0 ? kept / all : 1;
}

void lora_merge_grad(struct lora_merged *m, const struct lora *l)
{
	lora_merged_release(m);
	resize(m, l->net->n_site);
	for (int i = 0; i < m->n_site; i++) {
		const struct nn_site *t = &l->net->site[i];
		struct at_scope *s;
		at_t part[NN_PARTS];

		if (!lora_touches(l, i))
			continue;
		s = at_begin(AT_GRAD_AS_IS);
		for (int k = 0; k < t->parts; k++)
			part[k] = merged_part(l, i, k);
		at_t w_OI = t->parts == 1 ? part[0] : at_cat(t->parts, part, 0);
		m->w[i] = at_return(s, at_cast(w_OI, at_dtype_of(t->linear->w_OI)));
	}
}

void lora_merged_release(struct lora_merged *m)
{
	for (int i = 0; m->kept && i < 3 * m->n_site; i++)
		at_free(m->w[i]);
	free(m->w);
	*m = (struct lora_merged) { 0 };
}

/*
 * Multiplications of a forward and backward, beyond those of the base model, with T tokens; R all ranks of a
 * site, r the largest of them:
 * on the fly: x A^T, h B^T, and four products of the same sizes backward, A and B stacked: 3 T R (I + O);
 * merged: d loss / d W, which the frozen base does not need, and B A with its two gradients: T I O + 3 r I O
 * (a stacked site with a part that has no pair counts whole in both).
 */
bool lora_prefers_merge(const struct lora *l, int64_t tokens)
{
	double added = 0, merged = 0, T = (double)tokens;

	for (int i = 0; i < l->net->n_site; i++) {
		const struct nn_site *t = &l->net->site[i];
		double in = (double)t->in, out = (double)t->row[t->parts], all = 0, most = 0;

		for (int k = 0; k < t->parts; k++) {
			int at = l->at[i * NN_PARTS + k];
			double rank = at < 0 ? 0 : (double)l->pair[at].size.rank;

			all += rank;
			most = fmax(most, rank);
		}
		added += 3 * T * all * (in + out);
		merged += all > 0 ? (T + 3 * most) * in * out : 0;
	}
	return merged < added;
}
