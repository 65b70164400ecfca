#include "algorithms/optimizer.h"
#include <math.h>
#include <string.h>

static const char *const decay_names[] = { "constant", "linear", "cosine", NULL };

const struct field optimizer_fields[] = {
	FIELD(struct optimizer_conf, lr, .init = "3e-4", .min = 0, .max = 1, .doc = "learning rate"),
	FIELD(struct optimizer_conf, beta1, .init = "0.9", .min = 0, .max = 0.9999999,
	      .doc = "decay of the first moment"),
	FIELD(struct optimizer_conf, beta2, .init = "0.999", .min = 0, .max = 0.9999999,
	      .doc = "decay of the second moment"),
	FIELD(struct optimizer_conf, eps, .init = "1e-8", .min = 0, .max = 1,
	      .doc = "added to the denominator"),
	FIELD(struct optimizer_conf, weight_decay, .init = "1e-4", .min = 0, .max = 10,
	      .doc = "decoupled weight decay, times the learning rate"),
	FIELD(struct optimizer_conf, warmup, .init = "0", .min = 0, .max = 1e9, .unit = "steps",
	      .doc = "the learning rate rises linearly over this many steps"),
	FIELD(struct optimizer_conf, decay, .init = "constant", .choices = decay_names,
	      .doc = "how the learning rate falls to zero over the run"),
	FIELD_END
};

void optimizer_init(struct optimizer *o, const struct optimizer_conf *c, int64_t numel, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	*o = (struct optimizer) { .conf = c, .numel = numel };
	o->m_P = at_keep(at_zeros(DIMS(numel), AT_F32, dev));
	o->v_P = at_keep(at_zeros(DIMS(numel), AT_F32, dev));
	at_end(s);
}

void optimizer_release(struct optimizer *o)
{
	at_free(o->m_P);
	at_free(o->v_P);
	*o = (struct optimizer) { 0 };
}

double optimizer_rate(const struct optimizer_conf *c, int64_t step, int64_t total)
{
	double lr = c->lr, done = fmin((double)(step - 1) / (double)total, 1);

	if (step <= c->warmup)
		lr *= (double)step / (double)c->warmup;
	if (!strcmp(c->decay, "linear"))
		lr *= 1 - done;
	else if (!strcmp(c->decay, "cosine"))
		lr *= 0.5 * (1 + cos(3.14159265358979323846 * done));
	return lr;
}

void optimizer_update(struct optimizer *o, at_t theta_P, at_t grad_P, double lr)
{
	o->step++;
	at_adamw_(theta_P, grad_P, o->m_P, o->v_P, lr, o->conf->beta1, o->conf->beta2, o->conf->eps,
		  o->conf->weight_decay, o->step);
}

double optimizer_clip(at_t grad_P, double max)
{
	double norm = sqrt(at_sum_squares(grad_P));
	if (max > 0 && norm > max)
		at_mul_(grad_P, max / (norm + 1e-6));
	return norm;
}
