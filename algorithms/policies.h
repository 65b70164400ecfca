/*
 * policies.h -- theta (trained), old (sampled with) and ema (evaluated and exported): three adapters of one
 * shape.
 *
 * old and ema are only ever run without gradient, on weights that are made ready when they change
 * (lora_ready): merged, or in 16 bits with the pairs beside them, as theta runs, so that equal policies have
 * equal velocities.
 */
#ifndef POLICIES_H
#define POLICIES_H
#include "models/lora/fp8.h"
#include "models/lora/lora.h"

struct policy_conf {
	char *old_schedule; /* on_policy, linear, warm */
	double old_slope, old_max;
	int64_t old_start, old_every; /* steps, epochs */
	double ema_decay;
	int64_t ema_every; /* steps */
	char *merge;       /* lora_form_names */
};
extern const struct field policy_fields[];
void policies_warn(const struct policy_conf *c); /* of what is set and has no effect */

struct policies {
	const struct policy_conf *conf;
	struct lora theta, old, ema;
	struct lora_merged old_merged, ema_merged;
	struct fp8_weights old_fp8; /* of old_merged as its hash was */
	uint64_t old_fp8_hash;
	uint64_t theta_hash, old_hash; /* of their values as policies_refresh saw them */
	bool old_is_theta;             /* the same values: v_old is v detached and costs no forward */
};

/* All three start as one adapter: a fresh one by *lora, or that of the file `start`. */
int policies_init(struct policies *p, const struct policy_conf *c, const struct nn_net *net,
		  const struct lora_conf *lora, const char *start, uint64_t seed, enum at_device dev,
		  struct err *e);
/* For values that come from outside: of this shape (lora_lay_out), all zero. */
void policies_lay_out(struct policies *p, const struct policy_conf *c, const struct nn_net *net,
		      const struct lora_size *size, enum at_device dev);
void policies_release(struct policies *p);

/* After optimizer step `step` (from 1), if ema_every divides it:
 * ema += (1 - min((1 + step) / (10 + step), ema_decay)) (theta - ema). */
void policies_after_step(struct policies *p, int64_t step);
/* After epoch `epoch` (from 1), which ended at optimizer step `step`, if old_every divides it: old <- eta old
 * + (1 - eta) theta.  Returns eta, 1 where old stayed. */
double policies_after_epoch(struct policies *p, int64_t epoch, int64_t step);
double policies_eta(const struct policy_conf *c, int64_t step);

/* After values were set from outside (a checkpoint): merged weights follow. */
void policies_refresh(struct policies *p);
struct pass policies_old_pass(const struct policies *p);
/* The old policy as it samples: with fp8 in 8-bit weights, which are rounded when it has changed since. */
struct pass policies_sampling_pass(struct policies *p, bool fp8);
struct pass policies_ema_pass(struct policies *p); /* merges when ema has changed since */

#endif
