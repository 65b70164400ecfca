// tensor.cpp -- making tensors, asking about them, moving and shaping them.
#include "aten/shim.hpp"
#include "base/err.h"
#include <ATen/ATen.h>
#include <atomic>
#include <cstring>

namespace shim
{
at::ScalarType scalar_type(at_dtype dt)
{
	switch (dt) {
	case AT_F32:
		return at::kFloat;
	case AT_F64:
		return at::kDouble;
	case AT_F16:
		return at::kHalf;
	case AT_BF16:
		return at::kBFloat16;
	case AT_I64:
		return at::kLong;
	case AT_I32:
		return at::kInt;
	case AT_U8:
		return at::kByte;
	case AT_BOOL:
		return at::kBool;
	}
	throw std::runtime_error("unknown dtype");
}

at_dtype dtype_of(at::ScalarType t)
{
	for (int i = AT_F32; i <= AT_BOOL; i++)
		if (scalar_type(static_cast<at_dtype>(i)) == t)
			return static_cast<at_dtype>(i);
	throw std::runtime_error("a dtype that at.h does not know");
}

at::TensorOptions options(at_dtype dt, at_device dev)
{
	return at::TensorOptions().dtype(scalar_type(dt)).device(dev == AT_CUDA ? at::kCUDA : at::kCPU);
}

// Memory of somebody else's. Its deleter is how every view of it is recognised.
struct loan {
	void (*release)(void *ctx);
	void *ctx;
};
static void end_loan(void *p)
{
	loan *l = static_cast<loan *>(p);
	if (l->release)
		l->release(l->ctx);
	delete l;
}
void need_writable(const at::Tensor &x)
{
	if (x.has_storage() && x.storage().data_ptr().get_deleter() == end_loan)
		throw std::runtime_error(
		    "the first operand is borrowed memory, which is read-only; at_clone it");
}
} // namespace shim

using shim::call;
using shim::end_loan;
using shim::loan;
using shim::operands;
using shim::options;
using shim::ref;
using shim::run;
using shim::scalar_type;

namespace
{
// Finite numbers and nothing else give 0 when multiplied by 0: one pass, no memory, no branch.
KERNEL bool all_finite(const float *p, int64_t n)
{
	float sum = 0;
#pragma omp simd reduction(+ : sum)
	for (int64_t i = 0; i < n; i++)
		sum += p[i] * 0.0f;
	return sum == 0;
}
} // namespace

extern "C" {
// ---- Making ----------------------------------------------------------------------------------------------
at_t at_empty(struct at_dims s, enum at_dtype dt, enum at_device dev)
{
	return call("at_empty", {}, [&] { return at::empty(ref(s), options(dt, dev)); });
}
at_t at_zeros(struct at_dims s, enum at_dtype dt, enum at_device dev)
{
	return call("at_zeros", {}, [&] { return at::zeros(ref(s), options(dt, dev)); });
}
at_t at_full(struct at_dims s, double value, enum at_dtype dt, enum at_device dev)
{
	return call("at_full", {}, [&] { return at::full(ref(s), value, options(dt, dev)); });
}
at_t at_zeros_like(at_t x)
{
	return call("at_zeros_like", { x }, [&] { return at::zeros_like(x->v); });
}
at_t at_empty_like(at_t x)
{
	return call("at_empty_like", { x }, [&] { return at::empty_like(x->v); });
}
at_t at_arange(int64_t n, enum at_dtype dt, enum at_device dev)
{
	return call("at_arange", {}, [&] { return at::arange(n, options(dt, dev)); });
}
at_t at_scalar(double v, enum at_dtype dt, enum at_device dev)
{
	return call("at_scalar", {}, [&] { return at::full({}, v, options(dt, dev)); });
}
at_t at_from(const void *data, struct at_dims s, enum at_dtype dt)
{
	return call("at_from", {}, [&] {
		at::Tensor t = at::empty(ref(s), options(dt, AT_CPU));
		if (t.numel())
			memcpy(t.data_ptr(), data, t.nbytes());
		return t;
	});
}
at_t at_borrow(const void *data, struct at_dims s, enum at_dtype dt, void (*release)(void *ctx), void *ctx)
{
	return call("at_borrow", {}, [&] {
		return at::for_blob(const_cast<void *>(data), ref(s))
		    .context(new loan { release, ctx }, end_loan)
		    .options(options(dt, AT_CPU))
		    .make_tensor();
	});
}

// ---- Asking ----------------------------------------------------------------------------------------------
int at_ndim(at_t x)
{
	int out = 0;
	run("at_ndim", { x }, [&] { out = static_cast<int>(x->v.dim()); });
	return out;
}
int64_t at_size(at_t x, int dim)
{
	int64_t out = 0;
	run("at_size", { x }, [&] { out = x->v.size(dim); });
	return out;
}
int64_t at_numel(at_t x)
{
	int64_t out = 0;
	run("at_numel", { x }, [&] { out = x->v.numel(); });
	return out;
}
struct at_dims at_shape(at_t x)
{
	at_dims s = {};
	run("at_shape", { x }, [&] {
		if (x->v.dim() > AT_MAX_DIMS)
			throw std::runtime_error("more than AT_MAX_DIMS dimensions");
		s.n = static_cast<int>(x->v.dim());
		for (int i = 0; i < s.n; i++)
			s.d[i] = x->v.size(i);
	});
	return s;
}
bool at_shape_is(at_t x, struct at_dims s)
{
	bool out = false;
	run("at_shape_is", { x }, [&] { out = x->v.sizes() == ref(s); });
	return out;
}
bool at_dims_equal(struct at_dims a, struct at_dims b)
{
	return ref(a) == ref(b);
}
enum at_dtype at_dtype_of(at_t x)
{
	at_dtype dt = AT_F32;
	run("at_dtype_of", { x }, [&] { dt = shim::dtype_of(x->v.scalar_type()); });
	return dt;
}
enum at_device at_device_of(at_t x)
{
	at_device out = AT_CPU;
	run("at_device_of", { x }, [&] { out = x->v.is_cuda() ? AT_CUDA : AT_CPU; });
	return out;
}
size_t at_dtype_size(enum at_dtype dt)
{
	return c10::elementSize(scalar_type(dt));
}

static const char *const dtype_names[] = { "float32", "float64", "float16", "bfloat16",
					   "int64",   "int32",   "uint8",   "bool" };
static const char *const dtype_short[] = { "fp32", "fp64", "fp16", "bf16", "i64", "i32", "u8", "bool" };

const char *const at_weight_dtypes[] = { "float32", "bfloat16", "float16", nullptr };

const char *at_dtype_name(enum at_dtype dt)
{
	return dtype_names[dt];
}
int at_dtype_parse(enum at_dtype *dt, const char *name, struct err *e)
{
	for (int i = AT_F32; i <= AT_BOOL; i++)
		if (!strcmp(name, dtype_names[i]) || !strcmp(name, dtype_short[i])) {
			*dt = static_cast<at_dtype>(i);
			return 0;
		}
	return err_set(e, "unknown dtype '%s'; there are float32, bfloat16, float16 and float64", name);
}

double at_item(at_t x)
{
	double out = 0;
	run("at_item", { x }, [&] { out = x->v.item().toDouble(); });
	return out;
}
void *at_data(at_t x)
{
	void *p = nullptr;
	run("at_data", { x }, [&] {
		if (!x->v.device().is_cpu() || !x->v.is_contiguous())
			throw std::runtime_error("not a contiguous CPU tensor");
		p = const_cast<void *>(x->v.const_data_ptr());
	});
	return p;
}
float *at_f32(at_t x)
{
	run("at_f32", { x }, [&] {
		if (x->v.scalar_type() != at::kFloat)
			throw std::runtime_error("not float32");
	});
	return static_cast<float *>(at_data(x));
}
int64_t *at_i64(at_t x)
{
	run("at_i64", { x }, [&] {
		if (x->v.scalar_type() != at::kLong)
			throw std::runtime_error("not int64");
	});
	return static_cast<int64_t *>(at_data(x));
}
void at_copy_out(at_t x, void *out, enum at_dtype dt)
{
	run("at_copy_out", { x }, [&] {
		at::NoGradGuard no_grad;
		if (x->v.numel()) // straight into the caller's memory, whatever the source's strides and
				  // dtype
			at::from_blob(out, x->v.sizes(), options(dt, AT_CPU)).copy_(x->v);
	});
}
bool at_finite(at_t x)
{
	bool out = false;
	run("at_finite", { x }, [&] {
		if (!shim::is_f32(x->v)) {
			out = at::isfinite(x->v.detach()).all().item<bool>();
			return;
		}
		at::Tensor t = x->v.detach().contiguous();
		const float *p = t.const_data_ptr<float>();
		std::atomic<bool> all { true };
		shim::parallel(t.numel(), 1 << 16, [&](int64_t from, int64_t to) {
			if (!all_finite(p + from, to - from))
				all.store(false, std::memory_order_relaxed);
		});
		out = all;
	});
	return out;
}
bool at_equal(at_t a, at_t b)
{
	bool out = false;
	run("at_equal", { a, b }, [&] {
		if (a->v.sizes() != b->v.sizes() || a->v.scalar_type() != b->v.scalar_type())
			return;
		at::Tensor x = a->v.detach().cpu().contiguous(), y = b->v.detach().cpu().contiguous();
		out = !x.numel() || !memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes());
	});
	return out;
}
bool at_requires_grad(at_t x)
{
	bool out = false;
	run("at_requires_grad", { x }, [&] { out = x->v.requires_grad(); });
	return out;
}

// ---- Moving and shaping ----------------------------------------------------------------------------------
at_t at_to(at_t x, enum at_dtype dt, enum at_device dev)
{
	return call("at_to", { x },
		    [&] { return x->v.to(dev == AT_CUDA ? at::kCUDA : at::kCPU, scalar_type(dt)); });
}
at_t at_cast(at_t x, enum at_dtype dt)
{
	return call("at_cast", { x }, [&] { return x->v.to(scalar_type(dt)); });
}
at_t at_contiguous(at_t x)
{
	return call("at_contiguous", { x }, [&] { return x->v.contiguous(); });
}
at_t at_clone(at_t x)
{
	return call("at_clone", { x }, [&] { return x->v.clone(at::MemoryFormat::Contiguous); });
}
at_t at_detach(at_t x)
{
	return call("at_detach", { x }, [&] { return x->v.detach(); });
}
at_t at_view(at_t x, struct at_dims s)
{
	return call("at_view", { x }, [&] { return x->v.view(ref(s)); });
}
at_t at_reshape(at_t x, struct at_dims s)
{
	return call("at_reshape", { x }, [&] { return x->v.reshape(ref(s)); });
}
at_t at_flatten(at_t x, int from, int to)
{
	return call("at_flatten", { x }, [&] { return x->v.flatten(from, to); });
}
at_t at_transpose(at_t x, int a, int b)
{
	return call("at_transpose", { x }, [&] { return x->v.transpose(a, b); });
}
at_t at_permute(at_t x, struct at_dims order)
{
	return call("at_permute", { x }, [&] { return x->v.permute(ref(order)); });
}
at_t at_unsqueeze(at_t x, int dim)
{
	return call("at_unsqueeze", { x }, [&] { return x->v.unsqueeze(dim); });
}
at_t at_squeeze(at_t x, int dim)
{
	return call("at_squeeze", { x }, [&] { return x->v.squeeze(dim); });
}
at_t at_expand(at_t x, struct at_dims s)
{
	return call("at_expand", { x }, [&] { return x->v.expand(ref(s)); });
}
at_t at_repeat_interleave(at_t x, int64_t n, int dim)
{
	return call("at_repeat_interleave", { x }, [&] { return x->v.repeat_interleave(n, dim); });
}
at_t at_narrow(at_t x, int dim, int64_t start, int64_t len)
{
	return call("at_narrow", { x }, [&] { return x->v.narrow(dim, start, len); });
}
at_t at_select(at_t x, int dim, int64_t i)
{
	return call("at_select", { x }, [&] { return x->v.select(dim, i); });
}
at_t at_index_select(at_t x, int dim, at_t index)
{
	return call("at_index_select", { x, index }, [&] { return x->v.index_select(dim, index->v); });
}
at_t at_gather(at_t x, int dim, at_t index)
{
	return call("at_gather", { x, index }, [&] { return x->v.gather(dim, index->v); });
}
// Views from one op: its backward is one concatenation, where a narrow each would fill a whole tensor with
// zeros and add it.
static void give(const char *op, at_t *out, const std::vector<at::Tensor> &views)
{
	for (size_t i = 0; i < views.size(); i++)
		out[i] = shim::wrap(op, views[i]);
}
void at_chunk(int n, at_t *out, at_t x, int dim)
{
	run("at_chunk", { x }, [&] {
		int64_t size = x->v.size(dim);
		if (n <= 0 || size % n)
			throw std::runtime_error("the dimension does not divide evenly");
		give("at_chunk", out, x->v.split(size / n, dim));
	});
}
void at_split(int n, at_t *out, const int64_t *sizes, at_t x, int dim)
{
	run("at_split", { x }, [&] {
		give("at_split", out,
		     x->v.split_with_sizes(at::IntArrayRef(sizes, static_cast<size_t>(n)), dim));
	});
}
void at_unbind(int n, at_t *out, at_t x, int dim)
{
	run("at_unbind", { x }, [&] {
		if (x->v.size(dim) != n)
			throw std::runtime_error("the dimension has another size");
		give("at_unbind", out, x->v.unbind(dim));
	});
}

static std::vector<at::Tensor> list_of(int n, const at_t *x)
{
	std::vector<at::Tensor> v;
	v.reserve(static_cast<size_t>(n));
	for (int i = 0; i < n; i++)
		v.push_back(x[i]->v);
	return v;
}
at_t at_cat(int n, const at_t *x, int dim)
{
	return call("at_cat", operands(x, static_cast<size_t>(n)),
		    [&] { return at::cat(list_of(n, x), dim); });
}
at_t at_cat2(at_t a, at_t b, int dim)
{
	return call("at_cat2", { a, b }, [&] { return at::cat({ a->v, b->v }, dim); });
}
at_t at_stack(int n, const at_t *x, int dim)
{
	return call("at_stack", operands(x, static_cast<size_t>(n)),
		    [&] { return at::stack(list_of(n, x), dim); });
}
at_t at_pad(at_t x, struct at_dims before_after, double value)
{
	return call("at_pad", { x }, [&] { return at::constant_pad_nd(x->v, ref(before_after), value); });
}
at_t at_flip(at_t x, int dim)
{
	return call("at_flip", { x }, [&] { return at::flip(x->v, { dim }); });
}
void at_copy_(at_t dst, at_t src)
{
	run("at_copy_", { dst, src }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(dst->v);
		dst->v.copy_(src->v);
	});
}
}
