#include "trainer/evaluation/eval_result.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A row's columns: what the verdicts' reward gave, the total, and behind them each reward's score. */
enum { CORRECT, STRICT, SOFT, TOTAL, REWARDS };
_Static_assert((int)CORRECT == EVAL_GENEVAL && (int)STRICT == EVAL_STRICT && (int)SOFT == EVAL_SOFT, "kinds");

/* ---- Counting ------------------------------------------------------------------------------------ */

/* Those rewards that score the set of prompts. */
static void begin(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int set)
{
	int judge = mixture_judge(m, set);

	r->rows.judge = -1;
	r->reward = mem_zero((size_t)s->rewards, sizeof *r->reward);
	for (int k = 0; k < s->rewards; k++) {
		double weight = mixture_weight(m, k, set);

		if (isnan(weight))
			continue;
		if (k == judge)
			r->rows.judge = r->n_rewards;
		r->reward[r->n_rewards++] = (struct eval_reward) { .name = mem_str(mixture_at(m, k)->name),
								   .watched = weight == 0,
								   .at = k };
	}
	r->rows.columns = REWARDS + r->n_rewards;
}

void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag, const char *prompt)
{
	struct eval_rows *rows = &r->rows;

	if (!rows->columns)
		begin(r, m, s, s->set[i]);
	if (rows->n == rows->cap) {
		rows->cap = rows->cap ? 2 * rows->cap : 64;
		rows->value = mem_grow(rows->value, (size_t)(rows->cap * rows->columns), sizeof *rows->value);
		rows->tag = mem_grow(rows->tag, (size_t)rows->cap, sizeof *rows->tag);
		rows->prompt = mem_grow(rows->prompt, (size_t)rows->cap, sizeof *rows->prompt);
	}
	double *v = rows->value + rows->n * rows->columns;
	int judge = rows->judge < 0 ? -1 : r->reward[rows->judge].at;
	v[CORRECT] = judge < 0 ? NAN : mixture_sub_of(m, s, judge, i, "correct");
	v[STRICT] = judge < 0 ? NAN : mixture_sub_of(m, s, judge, i, "strict");
	v[TOTAL] = s->total[i];
	for (int k = 0; k < r->n_rewards; k++)
		v[REWARDS + k] = s->value[r->reward[k].at * s->n + i];
	r->has[EVAL_GENEVAL] |= judge >= 0 && mixture_sub_at(m, judge, "correct") >= 0;
	r->has[EVAL_STRICT] |= judge >= 0 && mixture_sub_at(m, judge, "strict") >= 0;
	r->images += !isnan(v[TOTAL]);
	r->unavailable += isnan(v[TOTAL]) != 0;
	rows->tag[rows->n] = *tag ? tag : "all";
	rows->prompt[rows->n++] = prompt;
}

/* ---- Which prompts there are ------------------------------------------------------------------------ */

static int by_tag_and_prompt(const void *a, const void *b, void *ctx)
{
	const struct eval_rows *rows = ctx;
	int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
	int c = strcmp(rows->tag[i], rows->tag[j]);

	c = c ? c : strcmp(rows->prompt[i], rows->prompt[j]);
	return c ? c : (i > j) - (i < j);
}

struct range {
	int64_t begin, end; /* of the sorted order */
	int64_t first;      /* row */
};
static int by_first(const void *a, const void *b)
{
	int64_t x = ((const struct range *)a)->first, y = ((const struct range *)b)->first;

	return (x > y) - (x < y);
}

/* Numbers the prompts, tag by tag in the order they came, and makes the tags. */
static void find_prompts(struct eval_result *r)
{
	struct eval_rows *rows = &r->rows;
	int64_t n = rows->n, *order = mem_zero((size_t)n + 1, sizeof *order);
	struct range *tag = NULL;
	int tags = 0, cap = 0;

	for (int64_t i = 0; i < n; i++)
		order[i] = i;
	qsort_r(order, (size_t)n, sizeof *order, by_tag_and_prompt, rows);
	for (int64_t i = 0; i < n; i++) {
		if (!i || strcmp(rows->tag[order[i]], rows->tag[order[i - 1]]))
			MEM_PUSH(tag, tags, cap) = (struct range) { i, i, order[i] };
		tag[tags - 1].end = i + 1;
		tag[tags - 1].first = order[i] < tag[tags - 1].first ? order[i] : tag[tags - 1].first;
	}
	qsort(tag, (size_t)tags, sizeof *tag, by_first);
	rows->cluster = mem_zero((size_t)n + 1, sizeof *rows->cluster);
	for (int t = 0; t < tags; t++) {
		struct eval_tag made = { .name = mem_str(rows->tag[tag[t].first]) };

		for (int64_t i = tag[t].begin; i < tag[t].end; i++) {
			made.prompts += i == tag[t].begin ||
					strcmp(rows->prompt[order[i]], rows->prompt[order[i - 1]]) != 0;
			made.images += !isnan(rows->value[order[i] * rows->columns + TOTAL]);
			rows->cluster[order[i]] = r->prompts + made.prompts - 1;
		}
		r->prompts += made.prompts;
		MEM_PUSH(r->tag, r->n_tags, r->cap_tags) = made;
	}
	free(order);
	free(tag);
	free(rows->tag);
	free(rows->prompt);
	rows->tag = rows->prompt = NULL;
}

/* ---- Means ----------------------------------------------------------------------------------------- */

/* Whether the numbers of a column are verdicts: 0 and 1. */
static bool is_verdict(const struct eval_rows *rows, int column)
{
	for (int64_t i = 0; i < rows->n; i++) {
		double v = rows->value[i * rows->columns + column];
		if (!isnan(v) && v != 0 && v != 1)
			return false;
	}
	return true;
}

/* The prompts from[0..n) that have the number, moved to the front of `out`. */
static int64_t counted(struct cluster *out, const struct cluster *from, int64_t n)
{
	int64_t k = 0;

	for (int64_t i = 0; i < n; i++)
		if (from[i].n > 0)
			out[k++] = from[i];
	return k;
}

static struct eval_number number_of(const struct stratum *s, int64_t strata, double least, double most)
{
	struct eval_number r = { .in = { NAN, NAN } };

	for (int64_t k = 0; k < strata; k++) {
		double sum = 0, count = 0;

		for (int64_t i = 0; i < s[k].n; i++) {
			sum += s[k].v[i].sum;
			count += s[k].v[i].n;
		}
		r.mean += sum / count;
		r.n += (int64_t)count;
	}
	r.mean = strata ? r.mean / (double)strata : NAN;
	if (strata)
		r.in = interval_of(s, strata, least, most);
	return r;
}

/* One column's number: the mean over tags, with each tag's, for a `kind`; for EVAL_KINDS over all images.
 * Bounds as interval_of's. */
static struct eval_number measure(struct eval_result *r, int column, int kind, double least, double most)
{
	const struct eval_rows *rows = &r->rows;
	struct cluster *all = mem_zero((size_t)r->prompts + 1, sizeof *all),
		       *used = mem_zero((size_t)r->prompts + 1, sizeof *used);
	struct stratum *s = mem_zero((size_t)r->n_tags + 1, sizeof *s);
	int64_t strata = 0, at = 0, from = 0;

	for (int64_t i = 0; i < rows->n; i++) {
		double v = rows->value[i * rows->columns + column];
		if (isnan(v))
			continue;
		all[rows->cluster[i]].sum += v;
		all[rows->cluster[i]].n++;
	}
	for (int t = 0; t < r->n_tags; t++) {
		struct stratum one = { used + at, counted(used + at, all + from, r->tag[t].prompts) };

		from += r->tag[t].prompts;
		at += one.n;
		if (kind < EVAL_KINDS)
			r->tag[t].of[kind] = number_of(&one, one.n > 0, least, most);
		if (one.n)
			s[strata++] = one;
	}
	struct stratum flat = { used, at };
	struct eval_number out =
	    kind < EVAL_KINDS ? number_of(s, strata, least, most) : number_of(&flat, at > 0, least, most);
	free(all);
	free(used);
	free(s);
	return out;
}

/* b, unless NULL: what the numbers are ahead of; r then holds the differences of a and b. */
static void measure_all(struct eval_result *r, const struct eval_rows *a, const struct eval_rows *b)
{
	for (int column = 0; column < r->rows.columns; column++) {
		bool verdict = is_verdict(a, column) && (!b || is_verdict(b, column));
		double least = verdict && b ? -1 : 0, most = verdict ? 1 : 0;

		if (column < EVAL_KINDS)
			r->of[column] = measure(r, column, column, least, most);
		else if (column == TOTAL)
			r->total = measure(r, column, EVAL_KINDS, least, most);
		else
			r->reward[column - REWARDS].score = measure(r, column, EVAL_KINDS, least, most);
	}
}

void eval_finish(struct eval_result *r)
{
	struct eval_rows *rows = &r->rows;

	for (int64_t i = 0; i < rows->n; i++) {
		double *v = rows->value + i * rows->columns;
		v[SOFT] = rows->judge < 0 ? v[TOTAL] : v[REWARDS + rows->judge];
	}
	r->has[EVAL_SOFT] = true;
	find_prompts(r);
	measure_all(r, rows, NULL);
}

/* The interval of a weighted mean of independent scores: what single ones stray, added by squares. */
static void stray(double *low, double *high, const struct eval_number *v, double share)
{
	*low += pow(share * (v->mean - v->in.low), 2);
	*high += pow(share * (v->in.high - v->mean), 2);
}

/* The weighted mean of one number of each set, of those that have it. */
static struct eval_number mean_of(const struct eval_result *set, const double *weight, int n,
				  const struct eval_number *(*of)(const struct eval_result *))
{
	struct eval_number r = { .in = { NAN, NAN } };
	double sum = 0, low = 0, high = 0;

	for (int i = 0; i < n; i++)
		if (of(&set[i])->n)
			sum += weight[i];
	for (int i = 0; i < n; i++) {
		const struct eval_number *v = of(&set[i]);
		double share = sum > 0 ? weight[i] / sum : 0;

		if (!v->n || !(share > 0))
			continue;
		r.mean += share * v->mean;
		r.n += v->n;
		stray(&low, &high, v, share);
	}
	if (r.n && !isnan(low + high))
		r.in = (struct interval) { r.mean - sqrt(low), r.mean + sqrt(high) };
	r.mean = r.n ? r.mean : NAN;
	return r;
}

static const struct eval_number *total_of(const struct eval_result *r)
{
	return &r->total;
}

void eval_join(struct eval_result *r, const struct eval_result *set, const double *weight, int n)
{
	double *share = mem_zero((size_t)n + 1, sizeof *share), sum = 0;

	*r = (struct eval_result) { .n_sets = n, .has = { [EVAL_SOFT] = true } };
	r->set = memcpy(mem_alloc((size_t)n * sizeof *set), set, (size_t)n * sizeof *set);
	for (int i = 0; i < n; i++)
		sum += weight[i];
	for (int i = 0; i < n; i++) {
		const struct eval_result *s = &set[i];
		const struct eval_number none = { NAN, { NAN, NAN }, 0 };

		share[i] = sum > 0 ? weight[i] : 1;
		r->set[i].weight = weight[i];
		r->images += s->images;
		r->unavailable += s->unavailable;
		r->prompts += s->prompts;
		r->seconds += s->seconds;
		if (!*r->why)
			memcpy(r->why, s->why, sizeof r->why);
		MEM_PUSH(r->tag, r->n_tags, r->cap_tags) = (struct eval_tag) {
			.name = mem_str(s->name),
			.images = s->images,
			.prompts = s->prompts,
			.of = { [EVAL_GENEVAL] = none, [EVAL_STRICT] = none, [EVAL_SOFT] = *eval_held_out(s) }
		};
	}
	r->of[EVAL_GENEVAL] = r->of[EVAL_STRICT] = (struct eval_number) { NAN, { NAN, NAN }, 0 };
	r->of[EVAL_SOFT] = mean_of(set, share, n, eval_held_out);
	r->total = mean_of(set, share, n, total_of);
	free(share);
}

void eval_release(struct eval_result *r)
{
	for (int i = 0; i < r->n_sets; i++)
		eval_release(&r->set[i]);
	free(r->set);
	free(r->name);
	for (int i = 0; i < r->n_tags; i++)
		free(r->tag[i].name);
	for (int k = 0; k < r->n_rewards; k++)
		free(r->reward[k].name);
	free(r->tag);
	free(r->reward);
	free(r->rows.value);
	free(r->rows.tag);
	free(r->rows.prompt);
	free(r->rows.cluster);
	*r = (struct eval_result) { 0 };
}

/* Of sets, each by itself. */
static int difference_of_sets(struct eval_result *out, const struct eval_result *a,
			      const struct eval_result *b, struct err *e)
{
	struct eval_result *set = mem_zero((size_t)a->n_sets, sizeof *set);
	double *weight = mem_zero((size_t)a->n_sets, sizeof *weight);
	int ret = a->n_sets == b->n_sets
		      ? 0
		      : err_set(e, "two evaluations of other prompts or rewards cannot be compared");

	for (int i = 0; i < a->n_sets && !ret; i++) {
		ret = eval_difference(&set[i], &a->set[i], &b->set[i], e);
		set[i].name = mem_str(a->set[i].name);
		weight[i] = a->set[i].weight;
	}
	if (!ret)
		eval_join(out, set, weight, a->n_sets);
	for (int i = 0; i < a->n_sets && ret; i++)
		eval_release(&set[i]);
	free(set);
	free(weight);
	return ret;
}

int eval_difference(struct eval_result *out, const struct eval_result *a, const struct eval_result *b,
		    struct err *e)
{
	const struct eval_rows *x = &a->rows, *y = &b->rows;
	size_t cells = (size_t)(x->n * x->columns);

	*out = (struct eval_result) { .prompts = a->prompts };
	if (a->n_sets)
		return difference_of_sets(out, a, b, e);
	if (x->n != y->n || x->columns != y->columns || a->n_tags != b->n_tags ||
	    (x->n && memcmp(x->cluster, y->cluster, (size_t)x->n * sizeof *x->cluster) != 0))
		return err_set(e, "two evaluations of other prompts or rewards cannot be compared");
	out->rows = (struct eval_rows) { .n = x->n, .columns = x->columns, .judge = x->judge };
	out->rows.value = mem_zero(cells + 1, sizeof(double));
	out->rows.cluster = mem_zero((size_t)x->n + 1, sizeof(int64_t));
	for (int64_t i = 0; i < x->n; i++) {
		double *v = out->rows.value + i * x->columns;

		out->rows.cluster[i] = x->cluster[i];
		for (int k = 0; k < x->columns; k++)
			v[k] = x->value[i * x->columns + k] - y->value[i * x->columns + k];
		out->images += !isnan(v[TOTAL]);
		out->unavailable += isnan(v[TOTAL]) != 0;
	}
	for (int kind = 0; kind < EVAL_KINDS; kind++)
		out->has[kind] = a->has[kind] && b->has[kind];
	for (int t = 0; t < a->n_tags; t++)
		MEM_PUSH(out->tag, out->n_tags, out->cap_tags) =
		    (struct eval_tag) { .name = mem_str(a->tag[t].name),
					.images = a->tag[t].images,
					.prompts = a->tag[t].prompts };
	out->reward = mem_zero((size_t)a->n_rewards + 1, sizeof *out->reward);
	for (; out->n_rewards < a->n_rewards; out->n_rewards++)
		out->reward[out->n_rewards] =
		    (struct eval_reward) { .name = mem_str(a->reward[out->n_rewards].name),
					   .watched = a->reward[out->n_rewards].watched };
	measure_all(out, x, y);
	return 0;
}

const struct eval_number *eval_held_out(const struct eval_result *r)
{
	return &r->of[r->has[EVAL_STRICT] ? EVAL_STRICT : EVAL_SOFT];
}

const char *eval_held_out_name(const struct eval_result *r)
{
	return r->has[EVAL_STRICT] ? "strict" : "reward";
}

double eval_lacking(const struct eval_result *r)
{
	int64_t all = r->images + r->unavailable;

	return all ? 1 - (double)eval_held_out(r)->n / (double)all : 0;
}
