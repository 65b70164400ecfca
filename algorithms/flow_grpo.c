/* flow_grpo.c -- FlowGRPO and its variants.  Shapes: B pairs, C channels, H height, W width of the latents.
 */
#include "algorithms/flow_grpo.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const log_ratios[] = { "exact", "unscaled", "guard", NULL };
static const char *const rules[] = { "clip", "kl", NULL };
static const char *const olds[] = { "replayed", "rollout", NULL };
static const char *const kls[] = { "published", "exact", "velocity", NULL };
static const char *const choices[] = { "first", "random", NULL };
static const char *const moves[] = { "random", "slides", NULL };

static const struct field fields[] = {
	FIELD(struct flow_grpo_conf, clip, .init = "1e-4", .min = 0, .max = 1,
	      .doc =
		  "how far the ratio of the new to the old probability may go from 1 before an image counts "
		  "no further; 0: no bound. It bounds the mean over a latent's numbers: smaller latents need "
		  "more. While theta is the policy that sampled, as in the first step of an epoch with "
		  "policy.old_schedule on_policy, the ratio is 1 and nothing is clipped"),
	FIELD(struct flow_grpo_conf, log_ratio, .init = "exact", .choices = log_ratios,
	      .doc = "exact: of the densities; unscaled: without 1 / (2 std^2), as CPS is published; guard: "
		     "GRPO-Guard's, without bias and with equal weight of all steps (solver flow_sde alone)"),
	FIELD(struct flow_grpo_conf, rule, .init = "clip", .choices = rules,
	      .doc = "clip: PPO's; kl: Flow-DPPO's, no gradient away from the old policy from `kl_bound` on"),
	FIELD(struct flow_grpo_conf, kl_bound, .init = "1e-5", .min = 0, .max = 1e9,
	      .doc = "with `rule: kl`: largest KL divergence from the old policy, a number of the latent"),
	FIELD(struct flow_grpo_conf, old, .init = "replayed", .choices = olds,
	      .doc = "replayed: the old policy's velocity is computed again, in the update's own batches; "
		     "rollout: taken from the steps as they were sampled"),
	FIELD(struct flow_grpo_conf, kl, .init = "published", .choices = kls,
	      .doc = "the pull towards the frozen base model: the published one, the KL divergence of the "
		     "steps, or the distance of the velocities"),
	FIELD(struct flow_grpo_conf, kl_beta, .init = "0.04", .min = 0, .max = 1000,
	      .doc = "its weight; 0: no reference velocity is computed"),
	FIELD(struct flow_grpo_conf, kl_every, .init = "1", .min = 1, .max = 1000,
	      .doc = "compute it for a random one in this many pairs, with as much more weight"),
	FIELD(struct flow_grpo_conf, steps, .init = "first", .choices = choices,
	      .doc = "which steps of a rollout are trained, of those with noise, as many as "
		     "train.timestep_fraction says: the first, or random ones of each image but the last"),
	FIELD(struct flow_grpo_conf, window, .init = "0", .min = 0, .max = 1000, .unit = "steps",
	      .doc = "so many steps in a row take noise, and only those are trained (Flow-GRPO-Fast, "
		     "MixGRPO); 0: all take noise"),
	FIELD(struct flow_grpo_conf, window_low, .init = "0", .min = 0, .max = 1000,
	      .doc = "the first step that a window may begin at"),
	FIELD(struct flow_grpo_conf, window_high, .init = "0", .min = 0, .max = 1000,
	      .doc = "the step that a window must end before; 0: half of the rollout's"),
	FIELD(struct flow_grpo_conf, window_moves, .init = "random", .choices = moves,
	      .doc = "random: anew every epoch; slides: a step further every `window_every` epochs, and from "
		     "the end back to the start"),
	FIELD(struct flow_grpo_conf, window_every, .init = "25", .min = 1, .max = 1e9, .unit = "epochs",
	      .doc = "with `window_moves: slides`"),
	FIELD_END
};

enum { RATIO, DISTANCE, OLD_KL, CLIPPED_UP, CLIPPED_DOWN };
static const char *const notes[] = { "ratio", "log_ratio", "old_kl", "clipped_up", "clipped_down", NULL };

static bool is(const char *value, const char *name)
{
	return !strcmp(value, name);
}

static int high(const struct flow_grpo_conf *c, int steps)
{
	int end = c->window_high ? (int)c->window_high : steps / 2;

	return end < steps ? end : steps;
}

static int check(const void *conf, const struct setting *s, struct err *e)
{
	const struct flow_grpo_conf *c = conf;
	int steps = (int)s->rollout->steps;

	if (is(c->log_ratio, "guard") && !is(s->rollout->solver, "flow_sde"))
		return err_set(
		    e,
		    "flow_grpo.log_ratio = 'guard' is made for rollout.solver = 'flow_sde', and it "
		    "is '%s'",
		    s->rollout->solver);
	if (is(c->log_ratio, "guard") && is(c->rule, "kl"))
		return err_set(e, "flow_grpo.log_ratio = 'guard' goes with flow_grpo.rule = 'clip'");
	if (c->window && high(c, steps) - c->window_low < c->window)
		return err_set(
		    e,
		    "flow_grpo.window = %lld: steps %lld to %d (window_low, window_high; rollout.steps "
		    "is %d) have no room for it",
		    (long long)c->window, (long long)c->window_low, high(c, steps), steps);
	return 0;
}

static void window(const void *conf, uint64_t seed, uint64_t epoch, int steps, int *from, int *to)
{
	const struct flow_grpo_conf *c = conf;

	*from = 0;
	*to = steps;
	if (!c->window)
		return;
	uint32_t places = (uint32_t)(high(c, steps) - c->window_low - c->window + 1);
	struct rng r = rng_make(seed, RNG_WINDOW, epoch, 0);
	uint64_t place = is(c->window_moves, "random") ? rng_below(&r, places)
						       : epoch / (uint64_t)c->window_every % places;
	*from = (int)(c->window_low + (int64_t)place);
	*to = *from + (int)c->window;
}

/* The steps that a sample may be trained at, in order; returns their number. */
static int noisy_steps(const struct flow_grpo_conf *c, const struct round *r, int64_t *level)
{
	int steps = r->schedule->steps, n = 0;
	/* The last step's density is too narrow: a window that reaches it was asked for. */
	int end = is(c->steps, "random") && !c->window && steps > 1 ? steps - 1 : steps;

	for (int k = 0; k < end; k++)
		if (r->law[k].std > 0)
			level[n++] = k;
	return n;
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	const struct flow_grpo_conf *c = conf;
	int64_t *level = mem_zero((size_t)r->schedule->steps, sizeof *level);
	int n = noisy_steps(c, r, level);

	if (is(c->steps, "random")) {
		struct rng g = rng_make(r->seed, RNG_TIMESTEP, r->epoch, (uint64_t)sample);
		rng_shuffle(&g, level, n);
	}
	if (n > r->levels)
		n = r->levels;
	/* Without a pull to the base an image with the mean reward teaches nothing. */
	bool empty = c->kl_beta == 0 && r->advantage[sample] == 0;
	for (int k = 0; k < n; k++)
		out[k] = (struct pair) { .sample = sample, .level = (int)level[k], .weight = !empty };
	free(level);
	return n;
}

/* Below this, the noise of a step is so small that its gradient is all variance. */
#define LEAST_STD 0.05

static int check_steps(const void *conf, const struct round *r, struct err *e)
{
	const struct flow_grpo_conf *c = conf;
	int to = c->window ? high(c, r->schedule->steps) : r->schedule->steps,
	    trained = is(c->steps, "first") && !c->window && r->levels < to ? r->levels : to;

	if (is(c->steps, "random") && !c->window && trained == r->schedule->steps)
		trained--;
	for (int i = (int)(c->window ? c->window_low : 0); i < trained; i++)
		if (r->law[i].std > 0 && r->law[i].std < LEAST_STD && !is(c->log_ratio, "unscaled"))
			return err_set(
			    e,
			    "step %d of the rollout adds noise of %.3g only, and would be trained: a "
			    "log-ratio over less than %g is all variance; leave it out "
			    "(train.timestep_fraction, flow_grpo.window_high), take more noise "
			    "(rollout.eta) or flow_grpo.log_ratio = 'unscaled'",
			    i, r->law[i].std, LEAST_STD);
	return 0;
}

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct flow_grpo_conf *c = conf;
	bool replayed = is(c->old, "replayed");

	(void)a;
	return (struct demands) { .needs = NEEDS_LAW | (replayed ? NEEDS_OLD : NEEDS_NEXT),
				  .times = 1,
				  .over = 1,
				  .kl = c->kl_beta,
				  .kl_every = c->kl_every };
}

/* ---- The loss --------------------------------------------------------------------------------------- */

enum { X, V, STD, DT };

static at_t law(const struct terms *m, int which)
{
	return at_view(at_select(m->law_B4, 1, which), DIMS(-1, 1, 1, 1));
}

static at_t law_B(const struct terms *m, int which)
{
	return at_cast(at_select(m->law_B4, 1, which), AT_F64);
}

static at_t mean_B(at_t x_BCHW)
{
	return at_cast(at_mean_dim(at_flatten(x_BCHW, 1, -1), 1, false), AT_F64);
}

/* D: theta's mean less that of the policy that sampled. */
static at_t shift(const struct flow_grpo_conf *c, const struct terms *m)
{
	if (is(c->old, "replayed"))
		return at_mul(law(m, V), at_sub(m->v_BCHW, m->v_old_BCHW));
	at_t mean = at_add(at_mul(law(m, X), m->xt_BCHW), at_mul(law(m, V), m->v_BCHW));
	return at_sub(mean, at_sub(m->next_BCHW, at_mul(law(m, STD), m->z_BCHW)));
}

/* PPO's clip: the larger of two losses. */
static at_t clipped(const struct flow_grpo_conf *c, at_t ratio_B, at_t a_B)
{
	at_t gain = at_mul(ratio_B, a_B);

	if (c->clip == 0)
		return at_neg(gain);
	return at_maximum(at_neg(gain), at_neg(at_mul(at_clamp(ratio_B, 1 - c->clip, 1 + c->clip), a_B)));
}

/* 1 where a pair has no gradient: beyond the bound, and on its way further. */
static at_t stopped(const struct flow_grpo_conf *c, at_t ratio_B, at_t k_B, at_t a_B)
{
	at_t away = terms_above_zero(at_mul(at_detach(at_sub(ratio_B, 1)), a_B));

	if (is(c->rule, "kl"))
		return at_mul(away, at_cast(at_ge(k_B, c->kl_bound), AT_F64));
	return c->clip > 0
		   ? at_mul(away, terms_above_zero(at_sub(at_abs(at_detach(at_sub(ratio_B, 1))), c->clip)))
		   : at_mul(away, 0);
}

static struct losses loss(const void *conf, const struct terms *m)
{
	const struct flow_grpo_conf *c = conf;
	at_t d = shift(c, m), std_B = law_B(m, STD), dt_B = law_B(m, DT),
	     a_B = at_cast(m->advantage_B, AT_F64);
	at_t along_B = mean_B(at_mul(m->z_BCHW, d)), square_B = mean_B(at_square(d));
	at_t variance_B = at_square(std_B), k_B = at_div(square_B, at_mul(variance_B, 2)), lr_B, kl_B = NULL;

	if (is(c->log_ratio, "exact"))
		lr_B = at_sub(at_div(along_B, std_B), k_B);
	else if (is(c->log_ratio, "unscaled"))
		lr_B = at_sub(at_mul(at_mul(std_B, along_B), 2), square_B);
	else
		lr_B = along_B;
	at_t ratio_B = at_exp(lr_B), stop_B = stopped(c, ratio_B, at_detach(k_B), a_B), policy_B;
	if (is(c->rule, "kl")) {
		at_t go_B = at_add(at_neg(stop_B), 1);
		at_t held_B = at_add(at_mul(ratio_B, go_B), at_mul(at_detach(ratio_B), stop_B));
		policy_B = at_neg(at_mul(held_B, a_B));
	} else {
		policy_B = clipped(c, ratio_B, a_B);
	}
	if (is(c->log_ratio, "guard"))
		policy_B = at_div(policy_B, at_neg(dt_B));
	if (!is(c->kl, "velocity")) {
		kl_B = at_div(at_square(law_B(m, V)), at_mul(variance_B, 2));
		if (is(c->kl, "published"))
			kl_B = at_mul(kl_B, at_neg(dt_B));
	}
	at_t up_B = terms_above_zero(a_B);
	return (struct losses) { .policy_B = policy_B,
				 .kl_weight_B = kl_B,
				 .note_B = { [RATIO] = ratio_B,
					     [DISTANCE] = at_abs(lr_B),
					     [OLD_KL] = k_B,
					     [CLIPPED_UP] = at_mul(stop_B, up_B),
					     [CLIPPED_DOWN] = at_mul(stop_B, at_add(at_neg(up_B), 1)) } };
}

const struct algorithm_type algorithm_flow_grpo = { .name = "flow_grpo",
						    .doc =
							"FlowGRPO, a clipped policy gradient on noisy steps",
						    .fields = fields,
						    .conf_size = sizeof(struct flow_grpo_conf),
						    .notes = notes,
						    .check = check,
						    .check_steps = check_steps,
						    .demands = demands,
						    .window = window,
						    .pairs = pairs,
						    .loss = loss };
