#include "models/vae/vae_parts.h"
#include "aten/images.h"
#include <string.h>

at_t vae_conv(const struct vae_conv *c, at_t x_BCHW, int stride, int padding)
{
	return at_conv2d(x_BCHW, c->w_OIkk, c->b_O, stride, padding);
}

at_t vae_in_pieces(const void *m, at_t (*some)(const void *m, at_t x_BCHW), at_t x_BCHW, int64_t at_a_time)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t B = at_size(x_BCHW, 0);
	at_t out = NULL;

	for (int64_t b = 0; b < B; b += at_a_time) {
		struct at_scope *piece = at_begin(AT_GRAD_AS_IS);
		int64_t n = at_a_time < B - b ? at_a_time : B - b;
		at_t y = some(m, at_narrow(x_BCHW, 0, b, n));
		if (n == B) {
			out = at_escape(piece, y);
		} else if (at_requires_grad(y)) {
			out = at_escape(piece, out ? at_cat2(out, y, 0) : y);
		} else { /* into place: a second copy of all images is never needed */
			if (!out) {
				struct at_dims d = at_shape(y);
				d.d[0] = B;
				out = at_escape(piece, at_empty(d, at_dtype_of(y), at_device_of(y)));
			}
			at_copy_(at_narrow(out, 0, b, n), y);
		}
		at_end(piece);
	}
	return at_return(s, out);
}

at_t vae_attention(at_t q_BNC, at_t k_BNC, at_t v_BNC)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t o_B1NC =
	    at_sdpa(at_unsqueeze(q_BNC, 1), at_unsqueeze(k_BNC, 1), at_unsqueeze(v_BNC, 1), NULL, false, 0);

	return at_return(s, at_contiguous(at_select(o_B1NC, 1, 0)));
}

void vae_order_for_gpu(struct nn_net *n)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int i = 0; i < n->n_param; i++) {
		at_t *t = n->param[i].tensor;

		if (at_ndim(*t) == 4 && !strncmp(n->param[i].name, "decoder.", 8))
			at_set(t, at_channels_last(*t));
	}
	at_end(s);
}
