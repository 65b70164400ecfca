/* Shapes: B batch, C channels, h x w latents or, in tensors of patches, as many of p x p; F = C p p. */
#include "models/layers/embed.h"
#include <math.h>

at_t embed_patches(at_t x_BChw, int64_t p, enum embed_order order)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t C = at_size(x_BChw, 1), h = at_size(x_BChw, 2) / p, w = at_size(x_BChw, 3) / p;
	at_t x_BChpwp = at_reshape(x_BChw, DIMS(-1, C, h, p, w, p));
	at_t x_BhwF = order == EMBED_CYX ? at_permute(x_BChpwp, DIMS(0, 2, 4, 1, 3, 5))
					 : at_permute(x_BChpwp, DIMS(0, 2, 4, 3, 5, 1));

	return at_return(s, at_reshape(x_BhwF, DIMS(-1, h * w, C * p * p)));
}

at_t embed_unpatch(at_t x_BNF, int64_t h, int64_t w, int64_t p, enum embed_order order)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t C = at_size(x_BNF, 2) / (p * p);
	at_t x_BChpwp;

	if (order == EMBED_CYX)
		x_BChpwp =
		    at_permute(at_reshape(x_BNF, DIMS(-1, h / p, w / p, C, p, p)), DIMS(0, 3, 1, 4, 2, 5));
	else
		x_BChpwp =
		    at_permute(at_reshape(x_BNF, DIMS(-1, h / p, w / p, p, p, C)), DIMS(0, 5, 1, 3, 2, 4));
	return at_return(s, at_reshape(x_BChpwp, DIMS(-1, C, h, w)));
}

at_t embed_sinusoids(at_t x_B, int64_t n, enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t half = n / 2;
	at_t exponent = at_mul(at_arange(half, AT_F32, at_device_of(x_B)), -log(10000));
	at_t freq = at_exp(at_div(exponent, (double)half));
	at_t angle = at_mul(at_unsqueeze(at_cast(x_B, AT_F32), 1), at_unsqueeze(freq, 0));

	return at_return(s, at_cast(at_cat2(at_cos(angle), at_sin(angle), 1), dt));
}

at_t embed_mlp(const struct nn_linear *first, const struct nn_linear *second, const struct pass *p, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, nn_linear(second, p, at_silu(nn_linear(first, p, x))));
}
