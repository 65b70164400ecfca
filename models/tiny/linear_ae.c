/*
 * linear_ae.c -- images to latents and back by one fixed linear map a patch.
 * Shapes: B images of H x W, latents h x w, patch side p, F = 3 p p values a patch, C channels, N patches
 * of data.
 */
#include "models/encoder.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int lay_out(struct linear_ae *a, const char *what, struct err *e)
{
	int64_t F = 3 * a->scale * a->scale;

	if (a->scale < 1 || a->scale > 64 || a->channels < 1 || a->channels > F)
		return err_set(
		    e,
		    "%s: scale = %lld and channels = %lld: scale must be 1 to 64, channels 1 to 3 * scale^2",
		    what, (long long)a->scale, (long long)a->channels);
	nn_add_tensor(&a->net, &a->encode_CF, "encoder.weight", DIMS(a->channels, F), true);
	nn_add_tensor(&a->net, &a->decode_FC, "decoder.weight", DIMS(F, a->channels), true);
	nn_add_tensor(&a->net, &a->mean_F, "mean", DIMS(F), true);
	return 0;
}

void linear_ae_release(struct linear_ae *a)
{
	nn_release(&a->net);
	*a = (struct linear_ae) { 0 };
}

/* ---- Fitting --------------------------------------------------------------------------------- */

/* Zeroes a[p][q] of the symmetric n x n matrix by a rotation, which is applied to the columns of v as well.
 */
static void rotate(double *a, double *v, int64_t n, int64_t p, int64_t q)
{
	double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
	double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1)); /* the smaller angle */
	double c = 1 / sqrt(t * t + 1), s = t * c;

	for (int64_t k = 0; k < n; k++) {
		double x = a[k * n + p], y = a[k * n + q];

		a[k * n + p] = c * x - s * y;
		a[k * n + q] = s * x + c * y;
	}
	for (int64_t k = 0; k < n; k++) {
		double x = a[p * n + k], y = a[q * n + k];

		a[p * n + k] = c * x - s * y;
		a[q * n + k] = s * x + c * y;
		x = v[k * n + p], y = v[k * n + q];
		v[k * n + p] = c * x - s * y;
		v[k * n + q] = s * x + c * y;
	}
}

/* Cyclic Jacobi: a becomes diagonal (eigenvalues), the columns of v its eigenvectors. */
static void eigen(double *a, double *v, int64_t n)
{
	double total = 0, off = 1;

	for (int64_t i = 0; i < n * n; i++) {
		total += a[i] * a[i];
		v[i] = i % (n + 1) == 0;
	}
	for (int sweep = 0; sweep < 60 && off > 1e-30 * total; sweep++) {
		off = 0;
		for (int64_t p = 0; p < n; p++)
			for (int64_t q = p + 1; q < n; q++) {
				off += a[p * n + q] * a[p * n + q];
				if (a[p * n + q] != 0)
					rotate(a, v, n, p, q);
			}
	}
}

struct component {
	double variance;
	int64_t column;
};

static int by_variance(const void *a, const void *b)
{
	double x = ((const struct component *)a)->variance, y = ((const struct component *)b)->variance;

	return (x < y) - (x > y);
}

/* Fills encode and decode with the leading components, each scaled and with its largest entry positive. */
static void fill(struct linear_ae *a, const double *cov, const double *v)
{
	int64_t F = 3 * a->scale * a->scale, C = a->channels;
	struct component *order = mem_zero((size_t)F, sizeof *order);
	float *encode = at_f32(a->encode_CF), *decode = at_f32(a->decode_FC);
	double mean = 0;

	for (int64_t i = 0; i < F; i++)
		order[i] = (struct component) { fmax(cov[i * F + i], 0), i };
	qsort(order, (size_t)F, sizeof *order, by_variance);
	for (int64_t k = 0; k < C; k++) /* divided by std^0.5, component k has variance std_k */
		mean += sqrt(order[k].variance) / (double)C;
	for (int64_t k = 0; k < C; k++) {
		const double *u = v + order[k].column;
		double factor = sqrt(mean * sqrt(order[k].variance)), sign = 1, largest = 0;
		bool empty = order[k].variance <= 1e-12 * order[0].variance;

		for (int64_t i = 0; i < F; i++)
			if (fabs(u[i * F]) > largest * (1 + 1e-9)) {
				largest = fabs(u[i * F]);
				sign = u[i * F] < 0 ? -1 : 1;
			}
		for (int64_t i = 0; i < F; i++) {
			encode[k * F + i] = empty ? 0 : (float)(sign * u[i * F] / factor);
			decode[i * C + k] = empty ? 0 : (float)(sign * u[i * F] * factor);
		}
	}
	free(order);
}

int linear_ae_fit(struct linear_ae *a, at_t patches_NF, int64_t scale, int64_t channels, struct err *e)
{
	int64_t F = 3 * scale * scale, N = at_size(patches_NF, 0);
	struct at_scope *s;

	*a = (struct linear_ae) { .scale = scale, .channels = channels };
	if (lay_out(a, "autoencoder", e))
		return -1;
	if (at_ndim(patches_NF) != 2 || at_size(patches_NF, 1) != F || N < 2) {
		linear_ae_release(a);
		return err_set(e, "autoencoder: the patches are %s: must be two or more rows of %lld values",
			       at_describe(patches_NF), (long long)F);
	}
	s = at_begin(AT_NO_GRAD);
	nn_init(&a->net, 0);
	at_t x_NF = at_cast(patches_NF, AT_F64), mean_1F = at_mean_dim(x_NF, 0, true);
	at_t centred_NF = at_sub(x_NF, mean_1F);
	at_t cov_FF = at_div(at_matmul(at_transpose(centred_NF, 0, 1), centred_NF), (double)N);
	double *cov = mem_zero((size_t)(F * F), sizeof *cov), *v = mem_zero((size_t)(F * F), sizeof *v);

	at_copy_out(cov_FF, cov, AT_F64);
	eigen(cov, v, F);
	fill(a, cov, v);
	at_copy_(a->mean_F, at_reshape(mean_1F, DIMS(F)));
	free(cov);
	free(v);
	at_end(s);
	return 0;
}

/* ---- Files ----------------------------------------------------------------------------------- */

int linear_ae_open(struct linear_ae *a, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	char *config = file_join(dir, "config.json");
	json_t *o = json_read(config, e);
	int ret;

	*a = (struct linear_ae) { 0 };
	ret = !o || json_get_int(&a->scale, o, "scale", 0, config, e) ||
		      json_get_int(&a->channels, o, "channels", 0, config, e) || lay_out(a, config, e) ||
		      nn_load_dir(&a->net, dir, NN_DIFFUSERS, NULL, dt, dev, e)
		  ? -1
		  : 0;
	if (ret)
		linear_ae_release(a);
	json_decref(o);
	free(config);
	return ret;
}

int linear_ae_save(const struct linear_ae *a, const char *dir, struct err *e)
{
	char *config = file_join(dir, "config.json"), *weights = file_join(dir, NN_WEIGHTS);
	json_t *o = json_object();
	int ret;

	json_object_set_new(o, "_class_name", json_string("LinearAutoencoder"));
	json_object_set_new(o, "scale", json_integer(a->scale));
	json_object_set_new(o, "channels", json_integer(a->channels));
	ret = file_mkdirs(dir, e) || json_write(config, o, e) || nn_save(&a->net, NULL, weights, AT_F32, e)
		  ? -1
		  : 0;
	json_decref(o);
	free(config);
	free(weights);
	return ret;
}

/* ---- Use ------------------------------------------------------------------------------------- */

at_t linear_ae_decode(const struct linear_ae *a, at_t z_BChw)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t h = at_size(z_BChw, 2), w = at_size(z_BChw, 3), p = a->scale;
	at_t x_BhwF = at_linear(at_contiguous(at_permute(z_BChw, DIMS(0, 2, 3, 1))), a->decode_FC, a->mean_F);
	at_t x_B3hpwp = at_permute(at_view(x_BhwF, DIMS(-1, h, w, 3, p, p)), DIMS(0, 3, 1, 4, 2, 5));

	return at_return(s, at_reshape(x_B3hpwp, DIMS(-1, 3, h * p, w * p)));
}

at_t linear_ae_encode(const struct linear_ae *a, at_t x_B3HW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t p = a->scale, h = at_size(x_B3HW, 2) / p, w = at_size(x_B3HW, 3) / p;
	at_t x_Bhw3pp = at_permute(at_reshape(x_B3HW, DIMS(-1, 3, h, p, w, p)), DIMS(0, 2, 4, 1, 3, 5));
	at_t x_BhwF = at_reshape(x_Bhw3pp, DIMS(-1, h, w, 3 * p * p));
	at_t z_BhwC = at_linear(at_sub(x_BhwF, a->mean_F), a->encode_CF, NULL);

	return at_return(s, at_contiguous(at_permute(z_BhwC, DIMS(0, 3, 1, 2))));
}

/* ---- As an autoencoder_type ------------------------------------------------------------------ */

static int open_type(void **state, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	struct linear_ae *a = mem_zero(1, sizeof *a);

	if (linear_ae_open(a, dir, dt, dev, e)) {
		free(a);
		return -1;
	}
	*state = a;
	return 0;
}

static at_t decode_type(void *state, at_t z_BChw, int64_t at_a_time)
{
	const struct linear_ae *a = state;

	(void)at_a_time; /* a product: images in one go */
	return linear_ae_decode(a, at_to(z_BChw, at_dtype_of(a->decode_FC), at_device_of(a->decode_FC)));
}

static at_t encode_type(void *state, at_t x_B3HW)
{
	const struct linear_ae *a = state;

	return linear_ae_encode(a, at_to(x_B3HW, at_dtype_of(a->encode_CF), at_device_of(a->encode_CF)));
}

static int64_t scale_type(void *state)
{
	return ((const struct linear_ae *)state)->scale;
}

static int64_t channels_type(void *state)
{
	return ((const struct linear_ae *)state)->channels;
}

static void close_type(void *state)
{
	linear_ae_release(state);
	free(state);
}

static int read_scale(int64_t *scale, const char *dir, struct err *e)
{
	char *config = file_join(dir, "config.json");
	json_t *o = json_read(config, e);
	int ret = !o || json_get_int(scale, o, "scale", 0, config, e) ? -1 : 0;

	if (!ret && *scale < 1)
		ret = err_set(e, "%s: scale must be above 0", config);
	json_decref(o);
	free(config);
	return ret;
}

const struct autoencoder_type linear_autoencoder = {
	.class_name = "LinearAutoencoder",
	.open = open_type,
	.decode = decode_type,
	.encode = encode_type,
	.scale = scale_type,
	.read_scale = read_scale,
	.channels = channels_type,
	.close = close_type,
};
