/*
 * algorithm_rwr.c -- reward-weighted regression (Peters and Schaal, 2007): a whole algorithm, and a small
 * one.
 *
 *   loss = exp(A / temperature) mean((v - (eps - x0))^2) + kl_beta mean((v - v_ref)^2)
 *
 * It is flow matching on the epoch's own images, of which the better ones count more.  It has no use for the
 * old policy's velocity, and none for what was bad: DiffusionNFT's paper shows that this is not enough.
 *
 * To build it in, copy it to algorithms/ and add X(rwr) to the list in algorithm.c and this file's name to
 * meson.build there; then `train.algorithm: rwr`.  tests/commands/test_extended.py does so.
 */
#include "algorithms/algorithm.h"

struct rwr_conf {
	double temperature, kl_beta;
};

static const struct field fields[] = {
	FIELD(struct rwr_conf, temperature, .init = "1", .min = 0.1, .max = 1000,
	      .doc = "an advantage of this much makes an image count e times as much"),
	FIELD(struct rwr_conf, kl_beta, .init = "1e-2", .min = 0, .max = 10,
	      .doc = "weight of the pull towards the frozen base model; 0 computes no reference velocity"),
	FIELD_END
};

enum { COUNTS, ERROR };
static const char *const notes[] = { "counts", "error", NULL };

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct rwr_conf *c = conf;

	(void)a;
	return (struct demands) { .times = 1, .over = 1, .kl = c->kl_beta, .kl_every = 1 };
}

static struct losses loss(const void *conf, const struct terms *m)
{
	const struct rwr_conf *c = conf;
	at_t counts = at_exp(at_div(at_cast(m->advantage_B, AT_F64), c->temperature));
	at_t error = terms_distance(m->v_BCHW, at_sub(m->eps_BCHW, m->x0_BCHW));

	return (struct losses) { .policy_B = at_mul(counts, error),
				 .note_B = { [COUNTS] = counts, [ERROR] = error } };
}

const struct algorithm_type algorithm_rwr = { .name = "rwr",
					      .doc = "reward-weighted regression",
					      .fields = fields,
					      .conf_size = sizeof(struct rwr_conf),
					      .notes = notes,
					      .demands = demands,
					      .loss = loss };
