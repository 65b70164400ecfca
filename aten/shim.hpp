// shim.hpp -- what the C++ files of this folder share: the handle, and how an op is wrapped.
#pragma once
#include "aten/at.h"
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/FunctionRef.h>
#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

// A handle is a list node in exactly one scope, or in none when kept.
struct at_tensor {
	at::Tensor v;
	const char *op;  // who made it: for panic messages
	at_scope *owner; // NULL when kept
	at_tensor *prev, *next;
};

namespace shim
{
using operands = at::ArrayRef<at_t>;

at_t wrap(const char *op, at::Tensor v); // owned by the innermost scope; throws without one
at_t keep(const char *op, at::Tensor v); // owned by nobody

// Composes the panic message; panic_now() comes after the catch block, when C++ is left, so that a handler
// may longjmp over C frames only.
void describe(const char *op, const char *what, operands in = {}, operands maybe = {});
void describe(const char *op, const std::exception &e, operands in = {}, operands maybe = {});
[[noreturn]] void panic_now();

// Calls back into C from inside libtorch. A panic in f may not jump over libtorch's frames: it comes back
// here, closes the scopes that f left open and goes on as an exception, until the op that started it all
// panics with f's message.
using callback = void (*)(void *ctx, const at_t *in, at_t *out);
void call_back(callback f, void *ctx, const at_t *in, at_t *out);

// A scope that closes however its block is left.
struct scope_guard {
	at_scope *s;
	scope_guard(at_scope_flags mode, const char *file, int line, const char *who)
	    : s(at_scope_begin(mode, file, line, who))
	{
	}
	scope_guard(const scope_guard &) = delete;
	~scope_guard() { at_end(s); }
};

inline void need(at_t t)
{
	if (!t)
		throw std::runtime_error("NULL operand");
}

// f(), or the panic message of what it threw: false.
template <class F> bool attempt(const char *op, operands in, operands maybe, F f)
{
	try {
		for (at_t t : in)
			need(t);
		f();
		return true;
	} catch (const std::exception &e) {
		describe(op, e, in, maybe);
	}
	return false;
}

// Every op is one line: call("at_add", { a, b }, [&] { return at::add(a->v, b->v); })
// A second list names operands that may be NULL.
template <class F> at_t call(const char *op, operands in, operands maybe, F f)
{
	at_t out = nullptr;
	if (!attempt(op, in, maybe, [&] { out = wrap(op, f()); }))
		panic_now();
	return out;
}
template <class F> at_t call(const char *op, operands in, F f)
{
	return call(op, in, {}, f);
}

// The same for functions that return no tensor.
template <class F> void run(const char *op, operands in, F f)
{
	if (!attempt(op, in, {}, f))
		panic_now();
}

// f(from, to) over pieces of [0, n) of at least `grain`, on libtorch's intra-op threads.
void parallel(int64_t n, int64_t grain, c10::function_ref<void(int64_t from, int64_t to)> f);

// Throws for memory that at_borrow() made a tensor of: it may be a read-only map.
void need_writable(const at::Tensor &x);

inline at::IntArrayRef ref(const at_dims &s)
{
	return at::IntArrayRef(s.d, static_cast<size_t>(s.n));
}
inline bool is_f32(const at::Tensor &x)
{
	return x.device().is_cpu() && x.scalar_type() == at::kFloat;
}
at::Tensor gelu_tanh(const at::Tensor &x); // at_gelu's, for ops that end with it
at::ScalarType scalar_type(at_dtype dt);
at_dtype dtype_of(at::ScalarType t);
at::TensorOptions options(at_dtype dt, at_device dev);
} // namespace shim

// Compiled for several instruction sets, chosen when the program is loaded. By features: "arch=haswell" would
// be chosen on a Haswell alone.
#ifdef __x86_64__
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KERNEL
#endif
