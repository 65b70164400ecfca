/* archives.c -- reading rollout archives.  Shapes: N rows of a file, T noise levels, C, H, W of the latents.
 */
#include "trainer/record/archives.h"
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void archives_free(struct archives *a)
{
	for (int i = 0; i < a->n; i++) {
		struct archive_epoch *x = &a->epoch[i];

		for (int k = 0; k < x->files; k++)
			free(x->file[k]);
		free(x->file);
		free(x->file_of);
		free(x->row_of);
		free(x->prompt);
		free(x->r);
		free(x->advantage);
		free(x->total);
		free(x->policy);
	}
	free(a->epoch);
	prompts_free(&a->prompts);
	*a = (struct archives) { 0 };
}

static int open_file(struct st_file *f, const char *path, struct err *e)
{
	return text_ends(path, ".zst") ? st_open_zstd(f, path, e) : st_open(f, path, e);
}

/* ---- What a file says, on rank 0 ------------------------------------------------------------------- */

/* One file: rows in its own order. */
struct part {
	const char *path;
	struct st_file f;
	int64_t n, levels;
	struct at_dims chw;
	int64_t *sample, *prompt_id;
	double *r, *advantage, *total; /* total NAN where there is no reward */
	bool noise, advantages;
	json_t *prompts;
	const char *epoch, *policy;
};

static void part_free(struct part *p)
{
	st_close(&p->f);
	free(p->sample);
	free(p->prompt_id);
	free(p->r);
	free(p->advantage);
	free(p->total);
	json_decref(p->prompts);
	*p = (struct part) { 0 };
}

static int take_reals(double **out, const struct part *p, const char *name, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t t;
	int ret = st_take(&t, &p->f, name, DIMS(p->n), e);

	if (!ret) {
		*out = mem_zero((size_t)p->n, sizeof **out);
		at_copy_out(t, *out, AT_F64);
	}
	at_end(sc);
	return ret;
}

static int take_ids(int64_t **out, const struct part *p, const char *name, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t t;
	int ret = st_take(&t, &p->f, name, DIMS(p->n), e);

	if (!ret && at_dtype_of(t) != AT_I64)
		ret = err_set(e, "%s: %s must be int64", p->path, name);
	if (!ret) {
		*out = mem_zero((size_t)p->n, sizeof **out);
		at_copy_out(t, *out, AT_I64);
	}
	at_end(sc);
	return ret;
}

static int check_float32(const struct part *p, const struct st_entry *x, struct err *e)
{
	return x->dtype == AT_F32 ? 0 : err_set(e, "%s: %s must be float32", p->path, x->name);
}

/* x0, and timesteps with noise where they are: shapes, and every number finite. */
static int read_latents(struct part *p, struct err *e)
{
	const struct st_entry *x0 = st_find(&p->f, "x0"), *t = st_find(&p->f, "timesteps"),
			      *noise = st_find(&p->f, "noise");

	if (!x0 || x0->shape.n != 4)
		return err_set(e, "%s: x0 (N, C, H, W) is missing or has another shape", p->path);
	p->n = x0->shape.d[0];
	p->chw = DIMS(x0->shape.d[1], x0->shape.d[2], x0->shape.d[3]);
	if (!p->n)
		return err_set(e, "%s: x0 has no rows", p->path);
	if (noise && !t)
		return err_set(e, "%s: noise without timesteps says nothing", p->path);
	if (t && (t->shape.n != 2 || t->shape.d[0] != p->n || t->shape.d[1] < 1))
		return err_set(e, "%s: timesteps must be (%lld, T)", p->path, (long long)p->n);
	p->levels = t ? t->shape.d[1] : 0;
	p->noise = noise != NULL;
	struct at_dims wanted = DIMS(p->n, p->levels, p->chw.d[0], p->chw.d[1], p->chw.d[2]);
	if (noise && !at_dims_equal(noise->shape, wanted))
		return err_set(e, "%s: noise must be (N, T, C, H, W) as timesteps and x0 have them", p->path);
	if (check_float32(p, x0, e) || (t && check_float32(p, t, e)) || (noise && check_float32(p, noise, e)))
		return -1;
	const struct st_entry *const all[] = { x0, t, noise };
	for (int k = 0; k < 3; k++) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		bool finite = !all[k] || at_finite(st_get(all[k]));

		at_end(sc);
		if (!finite)
			return err_set(e, "%s: %s has numbers that are not finite", p->path, all[k]->name);
	}
	return 0;
}

static int read_timesteps(const struct part *p, struct err *e)
{
	if (!p->levels)
		return 0;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t t = st_get(st_find(&p->f, "timesteps"));
	double least = at_item(at_min(t)), most = at_item(at_max(t));

	at_end(sc);
	if (least > 0 && most <= 1000)
		return 0;
	return err_set(e, "%s: timesteps are 1000 t, above 0 and at most 1000; these are %g to %g", p->path,
		       least, most);
}

/* Sums of reward.NAME, of those that score the image: sets of prompts have rewards of their own. */
static int read_rewards(struct part *p, struct err *e)
{
	bool *some = mem_zero((size_t)p->n, sizeof *some);

	p->total = mem_zero((size_t)p->n, sizeof *p->total);
	for (int k = 0; k < p->f.n; k++) {
		double *v;

		if (!text_starts(p->f.entry[k].name, "reward."))
			continue;
		if (take_reals(&v, p, p->f.entry[k].name, e)) {
			free(some);
			return -1;
		}
		for (int64_t i = 0; i < p->n; i++) {
			if (isnan(v[i]))
				continue;
			p->total[i] += v[i];
			some[i] = true;
		}
		free(v);
	}
	for (int64_t i = 0; i < p->n; i++)
		if (!some[i] || isnan(p->r[i]))
			p->total[i] = NAN;
	free(some);
	return 0;
}

static int read_numbers(struct part *p, struct err *e)
{
	if (take_ids(&p->prompt_id, p, "prompt_id", e) || take_reals(&p->r, p, "r", e) || read_rewards(p, e))
		return -1;
	for (int64_t i = 0; i < p->n; i++)
		if (p->r[i] < 0 || p->r[i] > 1)
			return err_set(e, "%s: r[%lld] = %g is not in [0, 1]", p->path, (long long)i,
				       p->r[i]);
	p->advantages = st_find(&p->f, "advantage") != NULL;
	if (p->advantages && take_reals(&p->advantage, p, "advantage", e))
		return -1;
	if (st_find(&p->f, "sample"))
		return take_ids(&p->sample, p, "sample", e);
	p->sample = mem_zero((size_t)p->n, sizeof *p->sample);
	for (int64_t i = 0; i < p->n; i++)
		p->sample[i] = i;
	return 0;
}

static const char *prompt_of(const struct part *p, int64_t row)
{
	char id[32];

	snprintf(id, sizeof id, "%lld", (long long)p->prompt_id[row]);
	return json_string_value(json_object_get(p->prompts, id));
}

static int read_prompts(struct part *p, struct err *e)
{
	const char *text = st_meta(&p->f, "prompts");

	if (!text)
		return err_set(e, "%s: the metadata have no prompts, a JSON object from prompt_id to text",
			       p->path);
	char *what = mem_printf("%s: prompts in the metadata", p->path);
	p->prompts = json_parse(text, strlen(text), what, e);
	free(what);
	if (!p->prompts)
		return -1;
	for (int64_t i = 0; i < p->n; i++)
		if (!prompt_of(p, i))
			return err_set(e, "%s: prompt_id[%lld] = %lld has no text in the metadata's prompts",
				       p->path, (long long)i, (long long)p->prompt_id[i]);
	return 0;
}

static int part_read(struct part *p, const char *path, struct err *e)
{
	*p = (struct part) { .path = path };
	if (open_file(&p->f, path, e))
		return -1;
	p->epoch = st_meta(&p->f, "epoch");
	p->policy = st_meta(&p->f, "policy");
	if (!read_latents(p, e) && !read_timesteps(p, e) && !read_numbers(p, e) && !read_prompts(p, e))
		return 0;
	part_free(p);
	return -1;
}

/* ---- Epochs as JSON: what rank 0 tells the others -------------------------------------------------- */

/* Indices of texts, in order of first appearance. */
static int64_t index_of(json_t *order, json_t *texts, const char *text)
{
	json_t *have = json_object_get(order, text);

	if (have)
		return json_integer_value(have);
	int64_t i = (int64_t)json_array_size(texts);
	json_object_set_new(order, text, json_integer(i));
	json_array_append_new(texts, json_string(text));
	return i;
}

/* A row of an epoch, for putting them in order. */
struct row {
	int64_t sample, file, row;
};

static int by_sample(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return (x->sample > y->sample) - (x->sample < y->sample);
}

/* Whether `next` goes on with the epoch of these: its samples are others. */
static bool goes_on(const json_t *epoch, const struct part *next)
{
	const char *name = json_string_value(json_object_get(epoch, "epoch"));
	json_t *samples = json_object_get(epoch, "sample"), *x;
	size_t i;

	if (!name || !next->epoch || strcmp(name, next->epoch))
		return false;
	json_array_foreach(samples, i,
			   x) for (int64_t k = 0; k < next->n;
				   k++) if (json_integer_value(x) == next->sample[k]) return false;
	return true;
}

static json_t *new_epoch(const struct part *p)
{
	json_t *j = json_object();

	if (p->epoch)
		json_object_set_new(j, "epoch", json_string(p->epoch));
	json_object_set_new(j, "policy", json_string(p->policy ? p->policy : ""));
	json_object_set_new(j, "chw",
			    json_pack("[I, I, I]", (json_int_t)p->chw.d[0], (json_int_t)p->chw.d[1],
				      (json_int_t)p->chw.d[2]));
	json_object_set_new(j, "levels", json_integer(p->levels));
	json_object_set_new(j, "noise", json_boolean(p->noise));
	json_object_set_new(j, "advantages", json_boolean(p->advantages));
	static const char *const lists[] = { "files",  "sample", "file_of",   "row_of",
					     "prompt", "r",      "advantage", "total" };
	for (size_t k = 0; k < sizeof lists / sizeof *lists; k++)
		json_object_set_new(j, lists[k], json_array());
	return j;
}

static void append(json_t *epoch, const char *list, json_t *value)
{
	json_array_append_new(json_object_get(epoch, list), value);
}

static int add_part(json_t *epoch, const struct part *p, json_t *order, json_t *texts, struct err *e)
{
	int64_t file = (int64_t)json_array_size(json_object_get(epoch, "files"));
	const json_t *chw = json_object_get(epoch, "chw");

	for (int k = 0; k < 3; k++)
		if (json_integer_value(json_array_get(chw, (size_t)k)) != p->chw.d[k])
			return err_set(e, "%s: x0 has another shape than the rest of its epoch", p->path);
	if (json_integer_value(json_object_get(epoch, "levels")) != p->levels ||
	    json_boolean_value(json_object_get(epoch, "noise")) != p->noise ||
	    json_boolean_value(json_object_get(epoch, "advantages")) != p->advantages)
		return err_set(e, "%s: timesteps, noise or advantage are not as in the rest of its epoch",
			       p->path);
	append(epoch, "files", json_string(p->path));
	for (int64_t i = 0; i < p->n; i++) {
		append(epoch, "sample", json_integer(p->sample[i]));
		append(epoch, "file_of", json_integer(file));
		append(epoch, "row_of", json_integer(i));
		append(epoch, "prompt", json_integer(index_of(order, texts, prompt_of(p, i))));
		append(epoch, "r", json_number(p->r[i]));
		append(epoch, "advantage", json_number(p->advantage ? p->advantage[i] : NAN));
		append(epoch, "total", json_number(p->total[i]));
	}
	return 0;
}

/* All files, on rank 0; {"texts": [...], "epochs": [...]} or NULL. */
static json_t *read_all(const char *const *path, int n, struct err *e)
{
	json_t *order = json_object(), *texts = json_array(), *epochs = json_array(), *last = NULL;
	int ret = n ? 0 : err_set(e, "there is no archive to train from");
	uint64_t hash = 0;

	for (int i = 0; i < n && !ret; i++) {
		struct part p;

		if ((ret = part_read(&p, path[i], e)))
			break;
		if (!last || !goes_on(last, &p)) {
			last = new_epoch(&p);
			json_array_append_new(epochs, last);
		}
		ret = add_part(last, &p, order, texts, e);
		uint64_t own = st_hash(&p.f);
		hash = file_hash(&own, sizeof own, hash);
		part_free(&p);
	}
	json_decref(order);
	json_t *all =
	    json_pack("{s:o, s:o, s:I}", "texts", texts, "epochs", epochs, "hash", (json_int_t)hash);
	if (!ret)
		return all;
	json_decref(all);
	return NULL;
}

/* ---- And on every rank ------------------------------------------------------------------------------- */

static int64_t whole(const json_t *epoch, const char *list, size_t i)
{
	return json_integer_value(json_array_get(json_object_get(epoch, list), i));
}

static double real(const json_t *epoch, const char *list, size_t i)
{
	const json_t *v = json_array_get(json_object_get(epoch, list), i);

	return json_is_number(v) ? json_number_value(v) : NAN;
}

static void fill_epoch(struct archive_epoch *x, const json_t *j)
{
	const json_t *chw = json_object_get(j, "chw"), *files = json_object_get(j, "files");
	size_t n = json_array_size(json_object_get(j, "sample"));
	struct row *row = mem_zero(n, sizeof *row);

	*x = (struct archive_epoch) { .files = (int)json_array_size(files),
				      .n = (int64_t)n,
				      .levels = json_integer_value(json_object_get(j, "levels")),
				      .noise = json_boolean_value(json_object_get(j, "noise")),
				      .advantages = json_boolean_value(json_object_get(j, "advantages")),
				      .policy = mem_str(json_string_value(json_object_get(j, "policy"))) };
	x->chw = DIMS(0, 0, 0);
	for (size_t k = 0; k < 3; k++)
		x->chw.d[k] = json_integer_value(json_array_get(chw, k));
	x->file = mem_zero((size_t)x->files, sizeof *x->file);
	for (int k = 0; k < x->files; k++)
		x->file[k] = mem_str(json_string_value(json_array_get(files, (size_t)k)));
	int64_t **ids[] = { &x->file_of, &x->row_of, &x->prompt };
	double **reals[] = { &x->r, &x->advantage, &x->total };
	for (int k = 0; k < 3; k++) {
		*ids[k] = mem_zero(n, sizeof **ids[k]);
		*reals[k] = mem_zero(n, sizeof **reals[k]);
	}
	for (size_t i = 0; i < n; i++)
		row[i] = (struct row) { .sample = whole(j, "sample", i), .row = (int64_t)i };
	qsort(row, n, sizeof *row, by_sample);
	for (size_t i = 0; i < n; i++) {
		size_t at = (size_t)row[i].row;

		x->file_of[i] = whole(j, "file_of", at);
		x->row_of[i] = whole(j, "row_of", at);
		x->prompt[i] = whole(j, "prompt", at);
		x->r[i] = real(j, "r", at);
		x->advantage[i] = real(j, "advantage", at);
		x->total[i] = real(j, "total", at);
	}
	free(row);
}

static void fill_all(struct archives *a, const json_t *all)
{
	const json_t *texts = json_object_get(all, "texts"), *epochs = json_object_get(all, "epochs");

	a->prompts =
	    (struct prompts) { .n = (int64_t)json_array_size(texts), .path = mem_str("the archives") };
	a->prompts.v = mem_zero((size_t)a->prompts.n, sizeof *a->prompts.v);
	for (int64_t i = 0; i < a->prompts.n; i++)
		a->prompts.v[i] =
		    (struct prompt) { .text = mem_str(json_string_value(json_array_get(texts, (size_t)i))),
				      .meta = mem_str("{}"),
				      .tag = mem_str("") };
	a->hash = (uint64_t)json_integer_value(json_object_get(all, "hash"));
	a->n = (int)json_array_size(epochs);
	a->epoch = mem_zero((size_t)a->n, sizeof *a->epoch);
	for (int i = 0; i < a->n; i++)
		fill_epoch(&a->epoch[i], json_array_get(epochs, (size_t)i));
}

int archives_open(struct archives *a, struct dist *d, const char *const *path, int n, struct err *e)
{
	json_t *all = d->rank == 0 ? read_all(path, n, e) : NULL;
	char *text = all ? json_line(all) : NULL;
	uint64_t size = text ? strlen(text) : 0;

	*a = (struct archives) { 0 };
	json_decref(all);
	if (dist_agree(d, d->rank == 0 && !text ? -1 : 0, e))
		return -1;
	dist_broadcast(d, &size, sizeof size, 0);
	if (!text)
		text = mem_zero(size + 1, 1);
	dist_broadcast(d, text, size, 0);
	all = json_parse(text, size, "what rank 0 found in the archives", e);
	free(text);
	if (dist_agree(d, all ? 0 : -1, e)) {
		json_decref(all);
		return -1;
	}
	fill_all(a, all);
	json_decref(all);
	return 0;
}

/* Copies row `from` of a file's tensor to row `to` of out. */
static int copy_row(at_t out, int64_t to, const struct st_file *f, const char *name, int64_t from,
		    struct err *e)
{
	const struct st_entry *x = st_find(f, name);

	if (!x || x->shape.n < 1 || from >= x->shape.d[0] || x->shape.n != at_ndim(out))
		return err_set(e, "%s: %s is no longer what it was when the run began", f->path, name);
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_copy_(at_select(out, 0, to), at_select(st_get(x), 0, from));
	at_end(sc);
	return 0;
}

int archives_take(const struct archives *a, int i, int64_t first, int64_t count, at_t *x0, at_t *timesteps,
		  at_t *noise, struct err *e)
{
	const struct archive_epoch *x = &a->epoch[i];
	int64_t C = x->chw.d[0], H = x->chw.d[1], W = x->chw.d[2];
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int ret = 0;

	*x0 = at_keep(at_empty(DIMS(count, C, H, W), AT_F32, AT_CPU));
	*timesteps = x->levels ? at_keep(at_empty(DIMS(count, x->levels), AT_F32, AT_CPU)) : NULL;
	*noise = x->noise ? at_keep(at_empty(DIMS(count, x->levels, C, H, W), AT_F32, AT_CPU)) : NULL;
	for (int k = 0; k < x->files && !ret; k++) {
		struct st_file f = { 0 };
		bool open = false;

		for (int64_t s = first; s < first + count && !ret; s++) {
			if (x->file_of[s] != k)
				continue;
			if (!open && (ret = open_file(&f, x->file[k], e)))
				break;
			open = true;
			ret = copy_row(*x0, s - first, &f, "x0", x->row_of[s], e);
			if (!ret && *timesteps)
				ret = copy_row(*timesteps, s - first, &f, "timesteps", x->row_of[s], e);
			if (!ret && *noise)
				ret = copy_row(*noise, s - first, &f, "noise", x->row_of[s], e);
		}
		if (open)
			st_close(&f);
	}
	at_end(sc);
	if (!ret)
		return 0;
	at_free(*x0);
	at_free(*timesteps);
	at_free(*noise);
	*x0 = *timesteps = *noise = NULL;
	return -1;
}
