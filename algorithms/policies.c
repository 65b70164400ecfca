#include "algorithms/policies.h"
#include "base/log.h"
#include "models/lora/lora_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const schedule_names[] = { "on_policy", "linear", "warm", NULL };

const struct field policy_fields[] = {
	FIELD(struct policy_conf, old_schedule, .init = "linear", .choices = schedule_names,
	      .doc =
		  "eta(step), the share of itself that the old policy keeps after an epoch. on_policy: 0; "
		  "linear: min(old_slope * step, old_max); warm: 0 before `old_start`, then min(old_slope * "
		  "(step - old_start), old_max)"),
	FIELD(struct policy_conf, old_slope, .init = "0", .min = 0, .max = 1,
	      .doc = "growth of eta per step; 0: the published value, 0.001 for linear and 0.0075 for warm"),
	FIELD(struct policy_conf, old_max, .init = "0", .min = 0, .max = 1,
	      .doc = "largest eta; 0: the published value, 0.5 for linear and 0.999 for warm"),
	FIELD(struct policy_conf, old_start, .init = "75", .min = 0, .max = 1e9, .unit = "steps",
	      .doc = "with `warm`: steps on policy at the start"),
	FIELD(struct policy_conf, old_every, .init = "1", .min = 1, .max = 1e9, .unit = "epochs",
	      .doc = "epochs between updates of the old policy"),
	FIELD(struct policy_conf, ema_decay, .init = "0.9", .min = 0, .max = 1,
	      .doc = "largest decay of the averaged (EMA) policy, which is evaluated and exported"),
	FIELD(struct policy_conf, ema_every, .init = "1", .min = 1, .max = 1e6, .unit = "optimizer steps",
	      .doc = "steps between updates of the averaged policy"),
	FIELD(struct policy_conf, merge, .init = "auto", .choices = lora_form_names,
	      .doc =
		  "do the old and the averaged policy run on weights that have their adapters in them? "
		  "always: yes, which is faster; never: the adapters' products are added as they run; "
		  "auto: where the weights have 32 bits, because 16 lose small changes; lean: as never, but "
		  "without a copy of the weights for each of the two, which a large model has no room for; "
		  "each product then puts weight and adapter together anew"),
	FIELD_END
};

/* A stage may inherit it from one that is warm: no error. */
void policies_warn(const struct policy_conf *c)
{
	if (c->old_start != 75 && strcmp(c->old_schedule, "warm") != 0)
		log_warn_once("policy.old_start = %lld has no effect: only `policy.old_schedule: warm` reads "
			      "it",
			      (long long)c->old_start);
}

static void ready(const struct policies *p, struct lora_merged *m, const struct lora *l)
{
	int form = 0;

	while (strcmp(lora_form_names[form], p->conf->merge))
		form++;
	lora_ready(m, l, (enum lora_form)form);
}

/* The other two as theta is. */
static void begin(struct policies *p)
{
	lora_copy_init(&p->old, &p->theta);
	lora_copy_init(&p->ema, &p->theta);
	lora_require_grad(&p->theta);
	policies_refresh(p);
}

int policies_init(struct policies *p, const struct policy_conf *c, const struct nn_net *net,
		  const struct lora_conf *lora, const char *start, uint64_t seed, enum at_device dev,
		  struct err *e)
{
	*p = (struct policies) { .conf = c };
	if (start ? lora_load(&p->theta, net, start, dev, e) : lora_init(&p->theta, net, lora, seed, dev, e))
		return -1;
	begin(p);
	return 0;
}

void policies_lay_out(struct policies *p, const struct policy_conf *c, const struct nn_net *net,
		      const struct lora_size *size, enum at_device dev)
{
	*p = (struct policies) { .conf = c };
	lora_lay_out(&p->theta, net, size, dev);
	begin(p);
}

void policies_release(struct policies *p)
{
	lora_release(&p->theta);
	lora_release(&p->old);
	lora_release(&p->ema);
	lora_merged_release(&p->old_merged);
	fp8_release(&p->old_fp8);
	lora_merged_release(&p->ema_merged);
	*p = (struct policies) { 0 };
}

void policies_refresh(struct policies *p)
{
	ready(p, &p->old_merged, &p->old);
	p->old_hash = lora_hash(&p->old);
	p->theta_hash = lora_hash(&p->theta);
	p->old_is_theta = p->old_hash == p->theta_hash;
}

struct pass policies_old_pass(const struct policies *p)
{
	return (struct pass) { .merged = &p->old_merged };
}

struct pass policies_sampling_pass(struct policies *p, bool fp8)
{
	struct pass pass = policies_old_pass(p);

	if (!fp8)
		return pass;
	if (!p->old_fp8.n_site || p->old_fp8_hash != p->old_merged.hash)
		fp8_round(&p->old_fp8, p->old.net, &p->old_merged);
	p->old_fp8_hash = p->old_merged.hash;
	pass.fp8 = &p->old_fp8;
	return pass;
}

struct pass policies_ema_pass(struct policies *p)
{
	if (p->ema_merged.hash != lora_hash(&p->ema))
		ready(p, &p->ema_merged, &p->ema);
	return (struct pass) { .merged = &p->ema_merged };
}

void policies_after_step(struct policies *p, int64_t step)
{
	double s = (double)step, decay = fmin((1 + s) / (10 + s), p->conf->ema_decay);

	if (step % p->conf->ema_every == 0)
		at_lerp_(p->ema.flat, p->theta.flat, 1 - decay);
	p->old_is_theta = false;
}

double policies_eta(const struct policy_conf *c, int64_t step)
{
	bool warm = !strcmp(c->old_schedule, "warm");
	double slope = c->old_slope > 0 ? c->old_slope : warm ? 0.0075 : 0.001;
	double max = c->old_max > 0 ? c->old_max : warm ? 0.999 : 0.5;

	if (!strcmp(c->old_schedule, "on_policy"))
		return 0;
	if (warm)
		return step < c->old_start ? 0 : fmin(slope * (double)(step - c->old_start), max);
	return fmin(slope * (double)step, max);
}

double policies_after_epoch(struct policies *p, int64_t epoch, int64_t step)
{
	double eta = policies_eta(p->conf, step);

	if (epoch % p->conf->old_every)
		return 1;
	at_lerp_(p->old.flat, p->theta.flat, 1 - eta);
	policies_refresh(p);
	return eta;
}
