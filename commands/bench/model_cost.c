/* model_cost.c -- the parts of a round, what they compute and move, and how near to it they are. */
#include "commands/bench/model_cost.h"
#include "base/json.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static struct cost none(const struct bench *b)
{
	return (struct cost) { .gemm = b->gemm, .copy = b->copy };
}

static double size_of(const struct bench *b)
{
	return (double)at_dtype_size(b->t.pipeline.dtype);
}

void model_cost_adapter(struct cost *c, const struct transformer *t, const struct lora *l,
			const struct cost_shape *s, enum adapter_cost how)
{
	int64_t N = t->type->tokens(t->m, s->h, s->w);

	for (int i = 0; i < t->net->n_site; i++) {
		const struct nn_site *site = &t->net->site[i];
		double rows = cost_rows(site, s, N), in = (double)site->in,
		       out = (double)site->row[site->parts];
		double rank = 0;

		for (int k = 0; k < site->parts; k++)
			if (l->at[i * NN_PARTS + k] >= 0)
				rank += (double)l->pair[l->at[i * NN_PARTS + k]].size.rank;
		if (rank == 0 || how == ADAPTER_NONE || how == ADAPTER_MERGED)
			continue;
		if (how == ADAPTER_PRODUCTS) {
			for (int twice = c->backward; twice >= 0; twice--) { /* of x, and of A and B */
				cost_linear(c, rows, in, rank, s->size);
				cost_linear(c, rows, rank, out, s->size);
			}
		} else if (c->backward) {
			cost_linear(c, out, rows, in, s->size);
			cost_linear(c, out, in, rank, s->size);
			cost_linear(c, in, out, rank, s->size);
		} else {
			cost_linear(c, out, rank, in, s->size);
		}
	}
}

/* Forwards of `count` samples, `at_a_time` of them in one. */
static struct cost forwards(const struct bench *b, int64_t count, int64_t at_a_time, enum adapter_cost how,
			    bool backward)
{
	const struct transformer *t = &b->t.pipeline.transformer;
	struct cost all = none(b);

	for (int k = 0; k < 2; k++) {
		int64_t n = k ? count % at_a_time : at_a_time;
		struct cost_shape s = { n, b->latent, b->latent, b->text_tokens, size_of(b) };
		struct cost one = none(b);

		one.backward = backward;
		if (!n || !(k ? 1 : count / at_a_time))
			continue;
		t->type->cost(t->m, &one, &s);
		model_cost_adapter(&one, t, &b->t.policies.theta, &s, how);
		cost_add(&all, &one, k ? 1 : (double)(count / at_a_time));
	}
	return all;
}

static struct cost theta(const struct bench *b, int64_t pairs)
{
	const struct lora *l = &b->t.policies.theta;
	int64_t micro = b->now.micro, elements = at_numel(b->s.x0_NCHW) / at_size(b->s.x0_NCHW, 0);
	bool merges = !lora_rounds(l) && lora_prefers_merge(l, elements);
	enum adapter_cost how = merges ? ADAPTER_MERGED_WITH_GRADIENTS : ADAPTER_PRODUCTS;
	double blocks = (double)b->t.pipeline.transformer.facts.blocks, again = (double)b->now.checkpoint;
	struct cost c = forwards(b, pairs, micro, how, false), back = forwards(b, pairs, micro, how, true);

	cost_add(&c, &c, fmin(again / blocks, 1));
	cost_add(&c, &back, 1);
	return c;
}

static struct cost decoding(const struct bench *b)
{
	struct cost all = none(b), one = none(b);
	enum at_dtype dt = at_dtype_of(*b->vae.net.param[0].tensor);
	struct cost_shape s = { b->now.vae_batch, b->latent, b->latent, 0, (double)at_dtype_size(dt) };

	vae_decode_cost(&b->vae, &one, &s);
	cost_add(&all, &one, (double)b->s.count / (double)b->now.vae_batch);
	return all;
}

/* Seconds of a pass without gradients over all pairs, by one micro-batch that is run a few times. */
static double time_forwards(struct bench *b, const struct pass *pass, int64_t pairs)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t n = b->now.micro < b->s.count ? b->now.micro : b->s.count,
		*id = mem_zero((size_t)n, sizeof *id);
	double best = INFINITY;

	for (int64_t i = 0; i < n; i++)
		id[i] = b->s.first + i;
	struct cond cond = samples_cond(&b->t, &b->s, id, (int)n);
	at_t x = at_narrow(b->s.x0_NCHW, 0, 0, n), t_B = at_full(DIMS(n), 500, AT_F32, b->t.pipeline.device);
	for (int i = 0; i < 5; i++) {
		struct at_scope *one = at_begin(AT_NO_GRAD);
		double start = bench_now(b);

		sampler_still_velocity(&b->t.rollout, pass, x, t_B, &cond);
		best = fmin(best, bench_now(b) - start);
		at_end(one);
	}
	free(id);
	at_end(sc);
	return best * (double)pairs / (double)n;
}

void model_cost(struct bench *b, const struct bench_times *m, struct model_cost *out)
{
	int64_t pairs = b->s.count * b->levels, images = b->s.count * b->steps;
	struct pass old = policies_old_pass(&b->t.policies);
	bool beside = lora_runs_beside(&b->t.policies.old_merged);
	enum adapter_cost how = beside ? ADAPTER_PRODUCTS : ADAPTER_MERGED;
	struct phase_cost *p = out->phase;

	*out = (struct model_cost) { .sum = { .name = "all", .least = none(b) } };
	p[COST_ROLLOUT] = (struct phase_cost) { "rollout's forwards",
						forwards(b, images, b->now.batch, how, false), m->rollout };
	p[COST_OLD] =
	    (struct phase_cost) { "the old policy's forwards", forwards(b, pairs, b->now.micro, how, false),
				  time_forwards(b, &old, pairs) };
	p[COST_REFERENCE] = (struct phase_cost) { .name = "the base's forwards" };
	if (b->now.kl > 0) {
		p[COST_REFERENCE].least = forwards(b, pairs, b->now.micro, ADAPTER_NONE, false);
		p[COST_REFERENCE].measured = time_forwards(b, &(struct pass) { 0 }, pairs);
	}
	p[COST_THETA] =
	    (struct phase_cost) { "theta's forwards and backwards", theta(b, pairs),
				  fmax(m->update - p[COST_OLD].measured - p[COST_REFERENCE].measured, 0) };
	p[COST_DECODE] = (struct phase_cost) { .name = "decoding" };
	if (b->t.pipeline.vae)
		p[COST_DECODE] = (struct phase_cost) { "decoding", decoding(b), m->decode };
	for (int i = 0; i < COST_PHASES; i++) {
		cost_add(&out->sum.least, &p[i].least, 1);
		out->sum.measured += p[i].measured;
	}
	struct bench_times least = { .rollout = p[COST_ROLLOUT].least.seconds,
				     .update = p[COST_THETA].least.seconds + p[COST_OLD].least.seconds +
					       p[COST_REFERENCE].least.seconds,
				     .decode = p[COST_DECODE].least.seconds };
	out->step = bench_step(b, &least);
	out->step_measured = bench_step(b, m);
}

static void print_phase(const struct phase_cost *p, const struct bench *b)
{
	if (p->least.flop > 0)
		printf("  %-32s %10.4f %10.3f %10.4f %10.4f %10.4f %10.4f %6.2f\n", p->name,
		       p->least.flop / 1e12, p->least.bytes / 1e9, p->least.flop / b->gemm,
		       p->least.bytes / b->copy, p->least.seconds, p->measured,
		       p->measured / p->least.seconds);
}

void model_cost_print(const struct model_cost *c, const struct bench *b)
{
	printf("  %-32s %10s %10s %10s %10s %10s %10s %6s\n", "a rank's share of a round", "TFLOP", "GB",
	       "products s", "bytes s", "least s", "measured", "ratio");
	for (int i = 0; i < COST_PHASES; i++)
		print_phase(&c->phase[i], b);
	print_phase(&c->sum, b);
	printf(
	    "  least: each op as long as its products or its bytes, whichever is longer; a step of 48 x 24 "
	    "images with 9 noise levels each: least %.1f s, measured %.1f s\n",
	    c->step, c->step_measured);
}

static json_t *phase_json(const struct phase_cost *p)
{
	const struct cost *c = &p->least;

	return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "phase", p->name, "flop",
			 json_number(c->flop), "bytes", json_number(c->bytes), "seconds_of_products",
			 json_number(c->flop / c->gemm), "seconds_of_bytes", json_number(c->bytes / c->copy),
			 "least_seconds", json_number(c->seconds), "measured_seconds",
			 json_number(p->measured), "ratio", json_number(p->measured / c->seconds));
}

json_t *model_cost_json(const struct model_cost *c)
{
	json_t *list = json_array();

	for (int i = 0; i < COST_PHASES; i++)
		if (c->phase[i].least.flop > 0)
			json_array_append_new(list, phase_json(&c->phase[i]));
	return json_pack("{s:o, s:o, s:o, s:o}", "phases", list, "all", phase_json(&c->sum),
			 "least_seconds_of_1152_images", json_number(c->step),
			 "measured_seconds_of_1152_images", json_number(c->step_measured));
}
