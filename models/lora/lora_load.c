/* lora_load.c -- from the pairs of a file to those of a network: names, shapes, fused modules taken apart. */
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "models/lora/lora_names.h"
#include "models/lora/lora_raw.h"
#include <stdlib.h>
#include <string.h>

/* Where a module's pair comes from. */
struct source {
	const struct lora_raw_pair *pair; /* NULL: it has none */
	bool fused;                       /* the pair is of all parts of the site's run */
	bool swap;                        /* the halves of B's rows change places */
	struct lora_size size;
	at_t a_RI, b_OR; /* what it comes to, float32 on the CPU */
};

struct loading {
	const struct nn_net *net;
	const struct lora_raw *raw;
	struct source *source; /* [site * NN_PARTS + part] */
	struct lora_run *run;  /* of each site */
};

/* ---- Names ----------------------------------------------------------------------------------- */

static int claim(struct loading *l, int site, int part, const struct lora_raw_pair *p, bool fused, bool swap,
		 struct err *e)
{
	struct source *s = &l->source[site * NN_PARTS + part];

	if (s->pair)
		return err_set(e, "adapter %s: '%s' and '%s' are both for %s", l->raw->file.path,
			       s->pair->module, p->module, l->net->site[site].name[part]);
	*s = (struct source) { .pair = p, .fused = fused, .swap = swap, .size = p->size };
	return 0;
}

/* The modules of one site whose names, underscored, are `name`, or together the original's. */
static int match_site(struct loading *l, int site, const char *name, const struct lora_raw_pair *p,
		      bool *found, struct err *e)
{
	const struct nn_site *t = &l->net->site[site];
	const struct lora_run *run = &l->run[site];
	bool whole = run->name && !strcmp(run->name, name);
	int ret = 0;

	for (int part = 0; part < t->parts && !ret; part++) {
		char *plain = lora_underscored(t->name[part]);
		bool same = !strcmp(plain, name);

		if (same || whole) {
			*found = true;
			ret = claim(l, site, part, p, !same && (t->parts > 1 || run->sites > 1),
				    !same && run->swap, e);
		}
		free(plain);
	}
	return ret;
}

static int find_modules(struct loading *l, struct err *e)
{
	for (int i = 0; i < l->raw->n; i++) {
		const struct lora_raw_pair *p = &l->raw->pair[i];
		char *name = lora_underscored(p->module);
		bool found = false;
		int ret = 0;

		for (int site = 0; site < l->net->n_site && !ret; site++)
			ret = match_site(l, site, name, p, &found, e);
		free(name);
		if (ret)
			return -1;
		if (!found)
			return err_set(e, "adapter %s: '%s' matches no linear module of this transformer",
				       l->raw->file.path,
				       p->a   ? p->a->name
				       : p->b ? p->b->name
					      : p->module);
	}
	return 0;
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

/* `there` with its half's name changed for the other's: "x.lora_A.weight" -> "x.lora_B.weight". */
static char *other_half(const char *there)
{
	static const char *const pair[][2] = { { "lora_A", "lora_B" },
					       { "lora_down", "lora_up" },
					       { "down", "up" } };
	size_t n = strlen(there);

	for (size_t i = 0; i < sizeof pair / sizeof *pair; i++)
		for (int k = 0; k < 2; k++) {
			const char *old = pair[i][k];
			size_t end = n - strlen(".weight") - strlen(old);

			if (!strncmp(there + end, old, strlen(old)))
				return mem_printf("%.*s%s.weight", (int)end, there, pair[i][1 - k]);
		}
	return mem_str(there);
}

static int check_half(const struct loading *l, const struct lora_raw_pair *p, const char *name, int64_t out,
		      int64_t in, int half, struct err *e)
{
	const char *path = l->raw->file.path;
	const struct st_entry *x = half ? p->b : p->a;
	const struct at_dims *d = &x->shape;

	if (d->n != 2)
		return err_set(e, "adapter %s: '%s' has %d dimensions, not 2", path, x->name, d->n);
	if (p->size.rank < 1)
		return err_set(e, "adapter %s: '%s' is empty", path, x->name);
	if (d->d[half] != p->size.rank)
		return err_set(e,
			       "adapter %s has rank %lld for %s of shape [%lld, %lld], and its %s says %lld",
			       path, (long long)d->d[half], name, (long long)out, (long long)in,
			       strcmp(l->raw->layout, "PEFT") ? "other half or metadata" : LORA_PEFT_CONFIG,
			       (long long)p->size.rank);
	if (d->d[1 - half] != (half ? out : in))
		return err_set(
		    e, "adapter %s has rank %lld for %s of shape [%lld, %lld], but its '%s' is [%lld, %lld]",
		    path, (long long)p->size.rank, name, (long long)out, (long long)in, x->name,
		    (long long)d->d[0], (long long)d->d[1]);
	return 0;
}

static int check_shapes(const struct loading *l, struct err *e)
{
	for (int i = 0; i < l->net->n_site * NN_PARTS; i++) {
		const struct nn_site *site = &l->net->site[i / NN_PARTS];
		const struct source *s = &l->source[i];
		int part = i % NN_PARTS;

		if (!s->pair)
			continue;
		if (!s->pair->a != !s->pair->b) {
			char *lost = other_half(s->pair->a ? s->pair->a->name : s->pair->b->name);

			err_set(e, "adapter %s: '%s' is missing", l->raw->file.path, lost);
			free(lost);
			return -1;
		}
		if (!s->pair->a)
			return err_set(e, "adapter %s: '%s' has an alpha but no weights", l->raw->file.path,
				       s->pair->module);
		for (int half = 0; half < 2; half++)
			if (check_half(l, s->pair, site->name[part],
				       s->fused ? l->run[i / NN_PARTS].rows
						: site->row[part + 1] - site->row[part],
				       site->in, half, e))
				return -1;
	}
	return 0;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* A part of a fused pair: its source and its rows there. */
struct piece {
	struct source *to;
	int64_t row, rows;
};

static int pieces_of(const struct loading *l, const struct lora_run *run, struct piece *piece)
{
	int64_t row = 0;
	int n = 0;

	for (int i = run->first; i < run->first + run->sites; i++)
		for (int k = 0; k < l->net->site[i].parts; k++, n++) {
			const int64_t *at = l->net->site[i].row;

			piece[n] = (struct piece) { &l->source[i * NN_PARTS + k], row, at[k + 1] - at[k] };
			row += piece[n].rows;
		}
	return n;
}

/* used[part * R + r]: does rank r of a fused pair do anything for the part? */
static bool *used_ranks(at_t b_OR, const struct piece *piece, int parts)
{
	int64_t R = at_size(b_OR, 1);
	bool *used = mem_zero((size_t)(parts * R), sizeof *used);
	const float *v = at_f32(b_OR);

	for (int part = 0; part < parts; part++)
		for (int64_t o = piece[part].row; o < piece[part].row + piece[part].rows; o++)
			for (int64_t r = 0; r < R; r++)
				used[part * R + r] |= v[o * R + r] != 0;
	return used;
}

static bool is_free(const bool *used, int parts, int64_t R, int64_t r)
{
	for (int part = 0; part < parts; part++)
		if (used[part * R + r])
			return false;
	return true;
}

/*
 * Which rank of a fused pair goes to which part: those that do something for it.  Ranks that do nothing for
 * any part are shared out evenly among the parts that have none: these were a pair whose B is still zero.
 */
static void share_ranks(bool *used, int parts, int64_t R)
{
	int64_t idle[LORA_RUN * NN_PARTS], *free_rank = mem_zero((size_t)R, sizeof *free_rank);
	int64_t n_idle = 0, n_free = 0;

	for (int part = 0; part < parts; part++) {
		bool any = false;

		for (int64_t r = 0; r < R; r++)
			any |= used[part * R + r];
		if (!any)
			idle[n_idle++] = part;
	}
	for (int64_t r = 0; r < R; r++)
		if (is_free(used, parts, R, r))
			free_rank[n_free++] = r;
	for (int64_t k = 0; k < n_free && n_idle; k++) {
		int64_t each = n_free / n_idle, to = each ? k / each : n_idle - 1;

		used[idle[to < n_idle ? to : n_idle - 1] * R + free_rank[k]] = true;
	}
	free(free_rank);
}

/* A fused pair is a block of rows of B for each part: what was three pairs before it was fused is three
 * again. */
static void split(const struct loading *l, const struct lora_run *run)
{
	struct piece piece[LORA_RUN * NN_PARTS];
	int parts = pieces_of(l, run, piece);
	const struct source *s = piece[0].to;
	at_t a_RI = at_cast(st_get(s->pair->a), AT_F32);
	at_t b_OR = at_contiguous(at_cast(st_get(s->pair->b), AT_F32));
	int64_t R = s->size.rank, *index = mem_zero((size_t)R, sizeof *index);
	double scale = s->size.alpha / (double)R;
	bool *used = used_ranks(b_OR, piece, parts);

	share_ranks(used, parts, R);
	for (int part = 0; part < parts; part++) {
		struct source *to = piece[part].to;
		int64_t n = 0;

		for (int64_t r = 0; r < R; r++)
			if (used[part * R + r])
				index[n++] = r;
		at_t own = at_from(index, DIMS(n), AT_I64);

		to->a_RI = at_index_select(a_RI, 0, own);
		to->b_OR = at_index_select(at_narrow(b_OR, 0, piece[part].row, piece[part].rows), 1, own);
		to->size = (struct lora_size) { n, scale * (double)n };
	}
	free(used);
	free(index);
}

static void take(struct source *s)
{
	s->a_RI = at_cast(st_get(s->pair->a), AT_F32);
	s->b_OR = at_cast(st_get(s->pair->b), AT_F32);
	if (s->swap)
		s->b_OR = lora_swap_halves(s->b_OR);
}

static void fill(struct lora *l, const struct loading *w, enum at_device dev)
{
	int n = w->net->n_site * NN_PARTS;
	struct lora_size *size = mem_zero((size_t)n, sizeof *size);
	struct source *source = w->source;

	for (int i = 0; i < n; i++)
		if (source[i].pair && source[i].fused && i == w->run[i / NN_PARTS].first * NN_PARTS)
			split(w, &w->run[i / NN_PARTS]);
		else if (source[i].pair && !source[i].fused)
			take(&source[i]);
	for (int i = 0; i < n; i++)
		if (source[i].pair)
			size[i] = source[i].size;
	lora_lay_out(l, w->net, size, dev);
	for (int i = 0; i < l->n; i++) {
		const struct source *s = &source[l->pair[i].site * NN_PARTS + l->pair[i].part];

		at_copy_(l->pair[i].a_RI, s->a_RI);
		at_copy_(l->pair[i].b_OR, s->b_OR);
	}
	free(size);
}

/* Every site's module of the original release, found once. */
static struct lora_run *runs_of(const struct nn_net *net)
{
	struct lora_run *run = mem_zero((size_t)net->n_site + 1, sizeof *run);

	for (int i = 0; i < net->n_site; i++)
		run[i] = lora_run_of(net, i);
	return run;
}

int lora_load(struct lora *l, const struct nn_net *net, const char *path, enum at_device dev, struct err *e)
{
	struct lora_raw raw;
	struct loading work = { .net = net, .raw = &raw };
	int ret;

	*l = (struct lora) { 0 };
	if (lora_raw_open(&raw, path, e))
		return -1;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	work.source = mem_zero((size_t)(net->n_site * NN_PARTS), sizeof *work.source);
	work.run = runs_of(net);
	ret = find_modules(&work, e) || check_shapes(&work, e) ? -1 : 0;
	if (!ret)
		fill(l, &work, dev);
	for (int i = 0; i < net->n_site; i++)
		free(work.run[i].name);
	free(work.run);
	free(work.source);
	at_end(s);
	lora_raw_close(&raw);
	return ret;
}
