#include "trainer/sampling.h"
#include "aten/transfer.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdlib.h>

/* ---- Sampling ------------------------------------------------------------------------------------ */

/* A batch's pixels on their way to the CPU. */
struct pixels {
	struct at_fetch *coming; /* NULL: none are */
	int64_t at;
};

static void hand_over(const struct sampling *s, struct pixels *p)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);

	if (p->coming)
		s->take(s->take_ctx, p->at, at_fetch_end(p->coming));
	p->coming = NULL;
	at_end(sc);
}

/* Where a batch's states go. */
struct states {
	at_t *state_NCHW;
	int64_t at;
};

static void keep_state(void *ctx, int i, at_t x_BCHW, at_t next_BCHW)
{
	const struct states *k = ctx;

	(void)next_BCHW;
	at_copy_(at_narrow(k->state_NCHW[i], 0, k->at, at_size(x_BCHW, 0)), x_BCHW);
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
		struct states states = { s->state_NCHW, at };
		struct sampler_steps steps = { .seed = s->seed,
					       .epoch = s->epoch,
					       .purpose = s->steps,
					       .id = id,
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
		ret = sample_batch(s, id + at, at, (int)(n - at < s->batch ? n - at : s->batch), &next, e);
		hand_over(s, &now);
		now = next;
		if (now.coming && at_fetch_ready(now.coming))
			hand_over(s, &now);
	}
	hand_over(s, &now);
	return ret;
}

/* ---- Conditioning of a file's prompts ------------------------------------------------------------ */

/* Shown from the first prompt that has to be encoded on: most of the time all are there. */
struct encoding {
	struct progress bar;
	bool begun;
	int64_t n;
};

static void encoded(void *ctx, int64_t i)
{
	struct encoding *x = ctx;

	if (!x->begun)
		progress_begin(&x->bar, "encode prompts", i, x->n);
	x->begun = true;
	progress_tick(&x->bar, i + 1, "%s", "");
}

int prepare_prompts(struct dist *d, const struct pipeline *p, const struct prompts *in, struct err *e)
{
	const char **text = mem_zero((size_t)in->n, sizeof *text);
	struct encoding x = { .n = in->n };
	int ret;

	for (int64_t i = 0; i < in->n; i++)
		text[i] = in->v[i].text;
	/* shared among all ranks, and then, where machines have a cache each, among those of a machine */
	ret = dist_agree(d, conditioner_fill(p->text, text, in->n, d->rank, d->ranks, encoded, &x, e), e);
	if (!ret)
		ret = dist_agree(
		    d, conditioner_fill(p->text, text, in->n, d->local_rank, d->local_ranks, encoded, &x, e),
		    e);
	if (x.begun)
		progress_end(&x.bar);
	free(text);
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
