#include "models/layers/rope.h"
#include "models/layers/sizes.h"
#include <math.h>

at_t rope_line(int axes, int64_t n, const double *from, const double *step, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t l_S = at_arange(n, AT_F64, dev), axis[ROPE_AXES];

	for (int a = 0; a < axes; a++)
		axis[a] = at_add(at_mul(l_S, step[a]), from[a]);
	return at_return(s, at_stack(axes, axis, -1));
}

at_t rope_grid(int axes, int64_t h, int64_t w, const double *from, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t axis[ROPE_AXES];

	for (int a = 0; a < axes; a++) {
		at_t at = a == 1   ? at_unsqueeze(at_arange(h, AT_F64, dev), 1)
			  : a == 2 ? at_unsqueeze(at_arange(w, AT_F64, dev), 0)
				   : at_zeros(DIMS(1, 1), AT_F64, dev);

		axis[a] = at_expand(at_add(at, from[a]), DIMS(h, w));
	}
	return at_return(s, at_flatten(at_stack(axes, axis, -1), 0, 1));
}

void rope_angles(const struct rope *r, at_t pos_SA, at_t *cos_SE, at_t *sin_SE)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t axis[ROPE_AXES];

	for (int a = 0; a < r->axes; a++) {
		at_t j_E = at_arange(r->width[a] / 2, AT_F64, at_device_of(pos_SA));
		at_t f_E = at_exp(at_mul(j_E, -2 * log(r->theta) / (double)r->width[a]));

		axis[a] = at_mul(at_cast(at_narrow(pos_SA, -1, a, 1), r->angles), at_cast(f_E, r->angles));
	}
	at_t angle_SE = at_cat(r->axes, axis, -1);
	*cos_SE = at_escape(s, at_cast(at_cos(angle_SE), AT_F32));
	*sin_SE = at_escape(s, at_cast(at_sin(angle_SE), AT_F32));
	at_end(s);
}

int rope_read(struct rope *r, const json_t *o, const char *key, int64_t head_dim, const char *what,
	      struct err *e)
{
	int64_t sum = 0;

	if (sizes_read_list(r->width, r->axes, o, key, 1 << 12, what, e))
		return -1;
	for (int a = 0; a < r->axes; a++) {
		if (r->width[a] % 2)
			return err_set(e, "%s: %s[%d] must be even: channels turn in pairs", what, key, a);
		sum += r->width[a];
	}
	return sum == head_dim ? 0
			       : err_set(e, "%s: %s adds up to %lld, a head has %lld channels", what, key,
					 (long long)sum, (long long)head_dim);
}

void rope_write(const struct rope *r, json_t *o, const char *key)
{
	json_t *axes = json_array();

	for (int a = 0; a < r->axes; a++)
		json_array_append_new(axes, json_integer(r->width[a]));
	json_object_set_new(o, key, axes);
}
