/*
 * at.h -- the whole of libtorch that this project uses, as a C API.
 *
 * Ownership, in four rules:
 *   1. Arguments are borrowed.  No function here consumes its inputs.
 *   2. A returned at_t belongs to the innermost open scope and dies with it.
 *   3. at_escape() moves a tensor to the enclosing scope: the way results leave.
 *   4. at_keep() makes a new reference that no scope owns; at_free() it yourself.
 * Fields of long-lived structs hold kept tensors, locals hold scoped ones.
 * Autograd takes its own references, so closing a scope never breaks a backward.
 * Scopes are per thread.  Only kept tensors may cross threads.
 *
 * A failing op (bad shape, out of memory) does not return: it calls the panic handler with the op, its
 * operands' shapes and makers, and the open scopes.  Only functions that take a `struct err *` report
 * instead.
 */
#ifndef AT_H
#define AT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

struct err;
typedef struct at_tensor *at_t; /* the only typedef'd handle in the project */

#define AT_MAX_DIMS 8
struct at_dims {
	int n;
	int64_t d[AT_MAX_DIMS];
};
#define DIMS(...)                                                                                            \
	((struct at_dims) { .n = (int)(sizeof((int64_t[]) { __VA_ARGS__ }) / sizeof(int64_t)),               \
			    .d = { __VA_ARGS__ } })
bool at_dims_equal(struct at_dims a, struct at_dims b);

enum at_dtype { AT_F32, AT_F64, AT_F16, AT_BF16, AT_I64, AT_I32, AT_U8, AT_BOOL };
enum at_device { AT_CPU, AT_CUDA };

/* ---- Scopes -------------------------------------------------------------------------------------- */
enum at_scope_flags { AT_GRAD_AS_IS = 0, AT_NO_GRAD = 1, AT_WITH_GRAD = 2 };
struct at_scope;
#define at_begin(flags) at_scope_begin((flags), __FILE__, __LINE__, __func__)
struct at_scope *at_scope_begin(enum at_scope_flags flags, const char *file, int line, const char *func);
void at_end(struct at_scope *s); /* s must be the innermost: checked */
/* The same handle, now owned one scope out; what s does not own passes through. */
at_t at_escape(struct at_scope *s, at_t t);
at_t at_return(struct at_scope *s, at_t t); /* at_escape + at_end, for `return` */
/* Loop-carried state: t escapes into *slot, and the old *slot is dropped if the enclosing scope owns it. */
void at_replace(struct at_scope *s, at_t *slot, at_t t);
at_t at_keep(at_t t);            /* caller owns a new reference; release with at_free */
void at_free(at_t t);            /* NULL is fine; a tensor that a scope owns is refused */
void at_set(at_t *slot, at_t t); /* at_free(*slot); *slot = at_keep(t): a struct field takes a new value */
void at_drop(at_t t);            /* free a big temporary before its scope ends */

/* ---- Making tensors ------------------------------------------------------------------------------ */
at_t at_empty(struct at_dims shape, enum at_dtype dt, enum at_device dev);
at_t at_zeros(struct at_dims shape, enum at_dtype dt, enum at_device dev);
at_t at_full(struct at_dims shape, double value, enum at_dtype dt, enum at_device dev);
at_t at_zeros_like(at_t x);
at_t at_empty_like(at_t x);
at_t at_arange(int64_t n, enum at_dtype dt, enum at_device dev);
at_t at_scalar(double v, enum at_dtype dt, enum at_device dev);         /* shape () */
at_t at_from(const void *data, struct at_dims shape, enum at_dtype dt); /* copies; CPU */
/* A CPU tensor over memory that is not ours: `release(ctx)` runs when the last reference goes (NULL: never).
 * The memory may be a read-only map: ops that work in place refuse it and every view of it. */
at_t at_borrow(const void *data, struct at_dims shape, enum at_dtype dt, void (*release)(void *ctx),
	       void *ctx);

/* ---- Asking -------------------------------------------------------------------------------------- */
int at_ndim(at_t x);
int64_t at_size(at_t x, int dim); /* dim < 0 counts from the end */
int64_t at_numel(at_t x);
struct at_dims at_shape(at_t x);
bool at_shape_is(at_t x, struct at_dims shape);
enum at_dtype at_dtype_of(at_t x);
enum at_device at_device_of(at_t x);
size_t at_dtype_size(enum at_dtype dt);
const char *at_dtype_name(enum at_dtype dt);                            /* "float32", "bfloat16", ... */
int at_dtype_parse(enum at_dtype *dt, const char *name, struct err *e); /* also "bf16", "fp16", "fp32" */
extern const char *const at_weight_dtypes[]; /* names of the types that weights may have, NULL-terminated */
double at_item(at_t x);                      /* one element, any dtype and device */
/* The first element's address: x must be a contiguous CPU tensor (panics otherwise). */
void *at_data(at_t x);
float *at_f32(at_t x); /* at_data of a float32 tensor: checked */
int64_t *at_i64(at_t x);
/* The values of x in row-major order, converted, into the caller's memory. */
void at_copy_out(at_t x, void *out, enum at_dtype dt);
bool at_finite(at_t x);        /* every element */
bool at_equal(at_t a, at_t b); /* same shape, dtype and bits of value */
bool at_requires_grad(at_t x);
const char *at_describe(at_t x); /* "float32[2, 3] from at_linear"; a per-thread buffer */

/* ---- Moving and shaping -------------------------------------------------------------------------- */
at_t at_to(at_t x, enum at_dtype dt, enum at_device dev); /* x itself (a new handle) when nothing changes */
at_t at_cast(at_t x, enum at_dtype dt);
at_t at_contiguous(at_t x);
at_t at_clone(at_t x);
at_t at_detach(at_t x);
at_t at_view(at_t x, struct at_dims shape); /* one -1 is inferred; panics when it would need a copy */
at_t at_reshape(at_t x, struct at_dims shape);
at_t at_flatten(at_t x, int from, int to);
at_t at_transpose(at_t x, int a, int b);
at_t at_permute(at_t x, struct at_dims order);
at_t at_unsqueeze(at_t x, int dim);
at_t at_squeeze(at_t x, int dim);
at_t at_expand(at_t x, struct at_dims shape); /* -1 keeps a size */
at_t at_repeat_interleave(at_t x, int64_t n, int dim);
at_t at_narrow(at_t x, int dim, int64_t start, int64_t len);
at_t at_select(at_t x, int dim, int64_t i);
at_t at_index_select(at_t x, int dim, at_t index_i64);
at_t at_gather(at_t x, int dim, at_t index_i64);
void at_chunk(int n, at_t *out, at_t x, int dim); /* n equal parts: views */
void at_split(int n, at_t *out, const int64_t *sizes, at_t x, int dim);
void at_unbind(int n, at_t *out, at_t x, int dim); /* (n, ...) at dim -> n views without it */
at_t at_cat(int n, const at_t *x, int dim);
at_t at_cat2(at_t a, at_t b, int dim);
at_t at_stack(int n, const at_t *x, int dim);
/* Last dim first, as torch.nn.functional.pad. */
at_t at_pad(at_t x, struct at_dims before_after, double value);
at_t at_flip(at_t x, int dim);
void at_copy_(at_t dst, at_t src); /* in place, converting; broadcasts; no autograd through dst */

/* ---- Arithmetic ---------------------------------------------------------------------------------- */
at_t at_add_tt(at_t a, at_t b);
at_t at_add_ts(at_t a, double b);
at_t at_sub_tt(at_t a, at_t b);
at_t at_sub_ts(at_t a, double b);
at_t at_mul_tt(at_t a, at_t b);
at_t at_mul_ts(at_t a, double b);
at_t at_div_tt(at_t a, at_t b);
at_t at_div_ts(at_t a, double b);
at_t at_add_scaled(at_t a, at_t b, double scale); /* a + scale * b */
at_t at_lerp_tt(at_t a, at_t b, at_t w);          /* a + w * (b - a) */
at_t at_lerp_ts(at_t a, at_t b, double w);
at_t at_neg(at_t x);
at_t at_abs(at_t x);
at_t at_exp(at_t x);
at_t at_log(at_t x);
at_t at_sqrt(at_t x);
at_t at_rsqrt(at_t x);
at_t at_sin(at_t x);
at_t at_cos(at_t x);
at_t at_square(at_t x);
at_t at_pow(at_t x, double p);
at_t at_clamp(at_t x, double lo, double hi);
at_t at_minimum(at_t a, at_t b);
at_t at_maximum(at_t a, at_t b);
at_t at_floor(at_t x);
at_t at_where(at_t cond, at_t a, at_t b);
at_t at_lt(at_t a, double b);
at_t at_ge(at_t a, double b);
/* In place, on tensors that autograd does not watch (buffers, optimizer state). */
void at_add_(at_t a, at_t b);
void at_add_scaled_(at_t a, at_t b, double scale);
void at_mul_(at_t a, double b);
void at_zero_(at_t a);
void at_lerp_(at_t a, at_t b, double w);
#ifndef __cplusplus
#define at_add(a, b)     _Generic((b), at_t : at_add_tt, default : at_add_ts)(a, b)
#define at_sub(a, b)     _Generic((b), at_t : at_sub_tt, default : at_sub_ts)(a, b)
#define at_mul(a, b)     _Generic((b), at_t : at_mul_tt, default : at_mul_ts)(a, b)
#define at_div(a, b)     _Generic((b), at_t : at_div_tt, default : at_div_ts)(a, b)
#define at_lerp(a, b, w) _Generic((w), at_t : at_lerp_tt, default : at_lerp_ts)(a, b, w)
#endif

/* ---- Reductions ---------------------------------------------------------------------------------- */
at_t at_sum(at_t x); /* all elements -> () */
at_t at_mean(at_t x);
at_t at_sum_dim(at_t x, int dim, bool keep);
at_t at_mean_dim(at_t x, int dim, bool keep);
at_t at_mean_keep_batch(at_t x); /* (B, ...) -> (B, 1, ..., 1) of the same rank */
at_t at_max(at_t x);
at_t at_min(at_t x);
at_t at_argmax(at_t x, int dim);
at_t at_norm(at_t x); /* Euclidean, all elements, accumulated in float64 -> () of x's dtype */
/* In float64; on the CPU in a fixed order, so with the same bits for any number of threads. */
double at_sum_squares(at_t x);

/* ---- Linear algebra and layers ------------------------------------------------------------------- */
at_t at_matmul(at_t a, at_t b);
at_t at_addmm(at_t c, at_t a, at_t b, double beta, double alpha); /* beta c + alpha a b */
/* The same into c, which nobody else may need any more: a product's own result.  Differentiable. */
at_t at_addmm_(at_t c, at_t a, at_t b, double beta, double alpha);
at_t at_linear(at_t x, at_t w, at_t b_or_null); /* x (..., in), w (out, in) */
/* gelu(linear, tanh), on a GPU without gradients in the product's epilogue. */
at_t at_linear_gelu(at_t x, at_t w, at_t b_or_null);
/* x W^T + bias + (x A^T) B^T, the last two summed with the first before anything is rounded: in 16 bits a
 * small B A would be lost in W, and in W x as well.  wide_OK: W and B side by side, columns in + rank, or
 * NULL, which makes it.  Differentiable in x, A and B. */
at_t at_linear_low_rank(at_t x, at_t w_OI, at_t bias_or_null, at_t a_RI, at_t b_OR, at_t wide_or_null);
/* Rows in 8 bits: x (R, C) is about e4m3(bytes) * scale, bytes (R, C) uint8, scale (R) float32. */
void at_quantise_rows(at_t x_RC, at_t *bytes_RC, at_t *scale_R);
/* linear with such weights, x's rows rounded likewise; float32 sums.  No gradients.  On a GPU the sizes are
 * multiples of 16 and the result has bfloat16's precision. */
at_t at_linear_fp8(at_t x, at_t bytes_OI, at_t scale_O, at_t b_or_null);
at_t at_conv2d(at_t x, at_t w, at_t b_or_null, int stride, int padding);
at_t at_group_norm(at_t x, int groups, at_t w, at_t b, double eps);
at_t at_layer_norm(at_t x, at_t w_or_null, at_t b_or_null, double eps); /* last dim */
at_t at_rms_norm(at_t x, at_t w_or_null, double eps);                   /* last dim; statistics in float32 */
at_t at_silu(at_t x);
at_t at_gelu(at_t x, bool tanh_approximation);
at_t at_sigmoid(at_t x);
at_t at_tanh(at_t x);
at_t at_relu(at_t x);
at_t at_softmax(at_t x, int dim);
at_t at_embedding(at_t table, at_t index_i64);
at_t at_upsample_nearest2(at_t x); /* (B, C, H, W) -> twice the height and width */
/* Scaled dot-product attention of (B, H, S, K); scale 0: 1/sqrt(K); bias may be NULL; a head of k and v, if
 * they have fewer, serves a run of q's.  The result may be a view of (B, S, H, K): transposed for nothing. */
at_t at_sdpa(at_t q, at_t k, at_t v, at_t bias_or_null, bool causal, double scale);
/* What computes that without bias and mask: libtorch's "flash", "efficient", "cudnn" or "math", or this
 * library's own for "short" sequences on the CPU. */
const char *at_sdpa_kernel(at_t q, at_t k, at_t v);

/* Fused: layer_norm(x) * (1 + scale) + shift in fewer passes over memory. Differentiable. */
at_t at_modulate(at_t x_BSD, at_t shift_B1D, at_t scale_B1D, double eps);

/* Fused: x + gate * y, differentiable. */
at_t at_gate(at_t x_BSD, at_t gate_B1D, at_t y_BSD);

/* Fused: *out = at_gate(x, gate, y) and *m = at_modulate(*out, shift, scale, eps), differentiable. */
void at_gate_modulate(at_t x_BSD, at_t gate_B1D, at_t y_BSD, at_t shift_B1D, at_t scale_B1D, double eps,
		      at_t *out_BSD, at_t *m_BSD);

/* Fused: queries, keys and values (B, tokens, H, K) of attention over the tokens of n = 1 or 2 streams one
 * after the other, from the streams' products x[i] (B, tokens, 3, H, K); queries and keys with at_rms_norm of
 * weights norm_q[i] and norm_k[i] (K), unless those are NULL.  all_queries false: of the first stream's
 * tokens alone.  Differentiable. */
void at_qkv(int n, const at_t *x_BS3HK, const at_t *norm_q_K, const at_t *norm_k_K, bool all_queries,
	    double eps, at_t *q_BSHK, at_t *k_BSHK, at_t *v_BSHK);

/* Rotary positions: pair e of a head's K = 2 E channels turned by the angle whose cosine and sine are given,
 * in float32 at least: channels 2 e and 2 e + 1, or e and e + E if `half`.  cos and sin are (S, E), or (B, S,
 * E) where samples differ.  Differentiable in x. */
at_t at_rope(at_t x_BSHK, at_t cos_SE, at_t sin_SE, bool half);

/* Fused, float32 on one device: the error of the x0 that velocity v implies, e = xt - t v - x0, as the mean
 * of e^2 over max(mean |e|, 1e-5), through which no gradient goes: (B) float64 of (B, ...).  Differentiable
 * in v alone; a NaN stays one. */
at_t at_x0_loss(at_t v, at_t xt, at_t x0, at_t t_B);

/* One AdamW step (PyTorch's formula) in place on flat float32 vectors; step counts from 1. */
void at_adamw_(at_t theta, at_t grad, at_t m, at_t v, double lr, double beta1, double beta2, double eps,
	       double weight_decay, int64_t step);

/* ---- Autograd ------------------------------------------------------------------------------------ */
void at_set_requires_grad(at_t leaf, bool on);
bool at_grad_enabled(void);
/* grads[i] = d loss / d leaves[i], owned by the innermost scope; NULL where loss does not reach. */
void at_grad(at_t loss, int n, const at_t *leaves, at_t *grads);
/* Gradient checkpointing: out[0..m) = f(ctx, in) without keeping what lies between; the backward runs f
 * again.  f must be a function of its inputs and of the `size` bytes of `ctx`, which are copied, and use no
 * other tensor that needs a gradient except those listed in `in`. */
void at_checkpoint(void (*f)(void *ctx, const at_t *in, at_t *out), const void *ctx, size_t size, int n,
		   const at_t *in, int m, at_t *out);

/* ---- CUDA graphs --------------------------------------------------------------------------------- */
/*
 * out[0..m) = f(ctx, in[0..n)) without gradients, for a function that runs many times on one set of shapes.
 * On a GPU the second run captures it as a CUDA graph, which is replayed from the third run on and saves what
 * each launch costs the CPU.  The graph must first reproduce a plain run, bit for bit where two plain runs
 * do, or else all runs stay plain. Besides its inputs f may read memory that stays where it is (weights,
 * whose values may change) and the `size` bytes of `ctx`, which are copied; it must not bring anything to the
 * CPU.  Elsewhere every run is plain.
 */
struct at_graph;
struct at_graph *at_graph_new(void (*f)(void *ctx, const at_t *in, at_t *out), const void *ctx, size_t size,
			      int n, int m);
void at_graph_free(struct at_graph *g); /* NULL is fine */
void at_graph_run(struct at_graph *g, const at_t *in, at_t *out);
/* Is it replayed now?  *why, unless NULL, says why it never will be; valid until at_graph_free. */
bool at_graph_replays(const struct at_graph *g, const char **why);

/* ---- Machine ------------------------------------------------------------------------------------- */
void at_set_threads(int n); /* intra-op threads of every later op of the process */
int at_threads(void);
/* f(ctx, from, to) over pieces of [0, n), of at least `grain` but for the last, on those threads.  f runs no
 * op. */
void at_parallel(int64_t n, int64_t grain, void (*f)(void *ctx, int64_t from, int64_t to), void *ctx);
bool at_cuda_built(void);
int at_cuda_devices(void); /* 0 without a driver or in a CPU build */
/* "cpu" or "cuda"; where there is no GPU to be had, the latter is an error that says why.  "auto": what
 * at_device_set_auto said, and before that cuda where there is one and else cpu. */
int at_device_parse(enum at_device *dev, const char *name, struct err *e);
void at_device_set_auto(enum at_device dev); /* what the process works on, its rewards included */
const char *at_device_name(enum at_device dev);
extern const char *const at_device_names[]; /* those that at_device_parse takes, NULL-terminated */
const char *at_version(void);               /* "2.11.0, AVX512, mkl" */
/* "cpu", or the GPU and the versions found there at run time: "NVIDIA H100 80GB HBM3 (sm_90, 79 GiB), driver
 * 580.159.04, CUDA 13.0, cuDNN 9.19.0". */
const char *at_device_text(enum at_device dev);
/* Is that attention kernel (at_sdpa_kernel's name) the fastest that libtorch has for this device?  On Hopper
 * an older cuDNN in the loader's path takes the place of libtorch's own without a word; attention then takes
 * about twice as long. */
bool at_sdpa_is_best(enum at_device dev, const char *kernel);
/* Kernels whose results do not depend on the order of their threads, where there is a choice: runs then
 * repeat their bits on a GPU as well, but attention's backward takes longer.  Off at the start. */
void at_set_deterministic(bool on);
#ifdef CONTRAFLOW_CUDA      /* cuda.cpp */
void at_cuda_wait(void);    /* until the GPU has done everything it was given */
void *at_cuda_stream(void); /* the cudaStream_t that ops go to */
float *at_cuda_f32(at_t x); /* the address on the GPU: a contiguous float32 tensor */
/* memory.h: how much memory it has */
#endif

/* ---- Failure and introspection ------------------------------------------------------------------- */
typedef void at_panic_fn(const char *message);
at_panic_fn *at_set_panic(at_panic_fn *fn); /* must not return; default prints and aborts */
/* A failure that is not an op's (a collective): ends as those do, with the context in the message. */
void at_panic(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* "rank 3, step 17": in every later panic message. */
void at_panic_context(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void at_unwind(void);  /* close every scope of this thread (tests) */
int64_t at_live(void); /* handles alive in the process */

#ifdef __cplusplus
}
#endif
#endif
