#include "trainer/sampling.h"
#include "aten/transfer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

/* ---- Sampling ------------------------------------------------------------------------------------ */

/* A batch's pixels on their way to the CPU. */
struct pixels {
	struct at_fetch *coming; /* NULL: none are */
	int64_t at;
};

/* After an error `ret`, too, which then stays. */
static int hand_over(const struct sampling *s, struct pixels *p, int ret, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct err late;
	int taken = 0;

	if (p->coming)
		taken = s->take(s->take_ctx, p->at, at_fetch_end(p->coming), ret ? &late : e);
	p->coming = NULL;
	at_end(sc);
	return ret ? ret : taken;
}

/* Where a batch's states go. */
struct states {
	const struct sampling *s;
	int64_t at;
};

static void keep_state(void *ctx, int i, at_t x_BCHW, at_t next_BCHW)
{
	const struct states *k = ctx;
	const struct sampling *s = k->s;
	int64_t n = at_size(x_BCHW, 0);

	at_copy_(at_narrow(s->state_NCHW[i], 0, k->at, n), x_BCHW);
	if (s->keep_next && i + 1 < s->sampler->schedule.steps)
		at_copy_(at_narrow(s->state_NCHW[i + 1], 0, k->at, n), next_BCHW);
}

/* Images id[0..n), which are at .. at + n - 1 of the list. */
static int sample_batch(const struct sampling *s, const int64_t *id, int64_t at, int n, struct pixels *out,
			struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct cond c = { 0 };
	int ret = s->cond(s->cond_ctx, id, n, &c, e);

	*out = (struct pixels) { .at = at };
	if (!ret) {
		at_t noise = sampler_noise(s->pipeline, s->seed, s->purpose, s->epoch, id, n, s->chw);
		struct states states = { s, at };
		struct sampler_steps steps = { .seed = s->seed,
					       .epoch = s->epoch,
					       .purpose = s->steps,
					       .id = id,
					       .forwards = s->forwards,
					       .record = s->state_NCHW ? keep_state : NULL,
					       .ctx = &states };
		at_t x0 = sampler_run(s->sampler, s->pass, noise, &c, &steps);

		if (s->take)
			out->coming = at_fetch_begin(pipeline_pixels(s->pipeline, x0));
		if (s->x0_NCHW)
			at_copy_(at_narrow(s->x0_NCHW, 0, at, n), x0);
	}
	at_end(sc);
	return ret;
}

/* A GPU has the next batch to work on while this one's images come and are taken; where they are there at
 * once, they are taken at once. */
int sampling_run(const struct sampling *s, const int64_t *id, int64_t n, struct err *e)
{
	struct pixels now = { 0 }, next;
	int ret = 0;

	for (int64_t at = 0; at < n && !ret; at += s->batch) {
		if ((ret = stop_check(e)))
			break;
		ret = sample_batch(s, id + at, at, (int)(n - at < s->batch ? n - at : s->batch), &next, e);
		ret = hand_over(s, &now, ret, e);
		now = next;
		if (now.coming && at_fetch_ready(now.coming))
			ret = hand_over(s, &now, ret, e);
	}
	return hand_over(s, &now, ret, e);
}

/* ---- Conditioning of a file's prompts ------------------------------------------------------------ */

/* The prompts that one pass over a file has to encode. */
struct encoding {
	const char **text;
	int64_t *missing, n; /* this rank's, of the n that are missing */
	double all;          /* of all ranks, or of those that share this machine's cache */
};

/* Every rank has made its first: their mean says what the rest will take, and whether there is room. */
static int check_room(struct dist *d, const struct pipeline *p, const struct encoding *x,
		      const struct conditioner_size *first, struct err *e)
{
	double sum[3] = { first->plain, first->stored, x->n > 0 }, free_bytes = 0;
	char a[32], b[32], c[32], f[32];

	dist_sum_f64(d, sum, 3);
	const char *dir = conditioner_space(p->text, &free_bytes);
	double each = sum[1] / sum[2], rest = x->all > sum[2] ? x->all - sum[2] : 0;
	if (!dir)
		return 0;
	int ret = each * rest > free_bytes
		      ? err_set(e,
				"%.0f prompts are to be encoded, and their embeddings take about %s each (%s "
				"in all), but the file system of %s has %s free: free some, or set "
				"model.text_cache to a folder elsewhere",
				x->all, text_size(a, each), text_size(b, each * x->all), dir,
				text_size(f, free_bytes))
		      : 0;
	if (!ret && d->rank == 0 && x->all > 0)
		log_info("%.0f prompts to encode: about %s in %s (%s each, compressed from %s), whose file "
			 "system has %s free",
			 x->all, text_size(b, each * x->all), dir, text_size(a, each),
			 text_size(c, sum[0] / sum[2]), text_size(f, free_bytes));
	return ret;
}

static int encode_rest(const struct pipeline *p, const struct encoding *x, struct err *e)
{
	struct progress bar;
	int ret = 0;

	if (x->n < 2)
		return 0;
	progress_begin(&bar, "encode prompts", 1, x->n);
	for (int64_t i = 1; i < x->n && !ret; i++) {
		ret = stop_check(e) || conditioner_make(p->text, x->text[x->missing[i]], NULL, e) ? -1 : 0;
		progress_tick(&bar, i + 1, "%s", "");
	}
	progress_end(&bar);
	return ret;
}

/* A share of all that are missing, by every rank. */
static int encode_missing(struct dist *d, const struct pipeline *p, struct encoding *x, int64_t n, int share,
			  int shares, struct err *e)
{
	struct conditioner_size first = { 0 };
	int ret = 0;

	x->n = conditioner_missing(p->text, x->text, n, share, shares, x->missing);
	double all = (double)x->n;
	dist_sum_f64(d, &all, 1);
	if (!(all > 0))
		return 0;
	x->all = shares == d->ranks ? all : (double)(x->n * shares);
	if (x->n)
		ret = conditioner_make(p->text, x->text[x->missing[0]], &first, e);
	if (dist_agree(d, ret, e) || dist_agree(d, check_room(d, p, x, &first, e), e))
		return -1;
	return dist_agree(d, encode_rest(p, x, e), e);
}

/* Ranks whose machines have disks of their own may have other files by this name: what they share out among
 * them, and sum, would then be of different prompts. */
static int check_same(struct dist *d, const struct prompts *in, struct err *e)
{
	uint64_t hash = (uint64_t)in->n;

	for (int64_t i = 0; i < in->n; i++) {
		hash = file_hash(in->v[i].text, strlen(in->v[i].text) + 1, hash);
		hash = file_hash(in->v[i].meta, strlen(in->v[i].meta) + 1, hash);
	}
	return dist_same(d, hash, "the file of prompts", e);
}

int prepare_prompts(struct dist *d, const struct pipeline *p, const struct prompts *in, struct err *e)
{
	struct encoding x = { .text = mem_zero((size_t)in->n, sizeof *x.text),
			      .missing = mem_zero((size_t)in->n, sizeof *x.missing) };

	for (int64_t i = 0; i < in->n; i++)
		x.text[i] = in->v[i].text;
	int ret = check_same(d, in, e);
	/* shared among all ranks, and then, where machines have a cache each, among those of a machine */
	if (!ret)
		ret = encode_missing(d, p, &x, in->n, d->rank, d->ranks, e);
	if (!ret && d->local_ranks < d->ranks)
		ret = encode_missing(d, p, &x, in->n, d->local_rank, d->local_ranks, e);
	free(x.text);
	free(x.missing);
	return ret ? err_in(e, "%s", in->path) : 0;
}

int encode_prompts(const struct pipeline *p, const struct prompts *in, const int64_t *index, int n,
		   struct cond *out, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const char **text = mem_zero((size_t)n, sizeof *text);
	int64_t *row = mem_zero((size_t)n, sizeof *row);
	struct cond once = { 0 };
	int distinct = 0, ret;

	for (int i = 0; i < n; i++) {
		if (!i || index[i] != index[i - 1])
			text[distinct++] = in->v[index[i]].text;
		row[i] = distinct - 1;
	}
	ret = pipeline_encode(p, text, distinct, &once, e);
	if (!ret) {
		*out = cond_rows(&once, at_to(at_from(row, DIMS(n), AT_I64), AT_I64, p->device));
		cond_escape(s, out);
	}
	free(text);
	free(row);
	at_end(s);
	return ret;
}
