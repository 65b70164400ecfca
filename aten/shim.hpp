// shim.hpp -- what the C++ files of this folder share: the handle, the scope, and how an op is wrapped.
#pragma once
#include "aten/at.h"
#include <ATen/core/Tensor.h>
#include <exception>
#include <initializer_list>
#include <utility>
#include <vector>

// A handle is a list node in exactly one scope, or in none when kept.
struct at_tensor {
	at::Tensor v;
	const char *op;         // who made it: for panic messages
	struct at_scope *owner; // NULL when kept
	at_tensor *prev, *next;
};

namespace shim
{
at_t wrap(const char *op, at::Tensor v); // owned by the innermost scope; throws without one
at_t keep(const char *op, at::Tensor v); // owned by nobody

// Composes the panic message; panic_now() then leaves C++ before the handler runs, so that a handler may
// longjmp.
void describe(const char *op, const char *what, const at_t *in, size_t n);
[[noreturn]] void panic_now();

inline void need(at_t t)
{
	if (!t)
		throw std::runtime_error("NULL operand");
}

// Every op is one line: call("at_add", {a, b}, [&] { return at::add(a->v, b->v); })
template <class F> at_t call(const char *op, std::initializer_list<at_t> in, F f)
{
	try {
		for (at_t t : in)
			need(t);
		return wrap(op, f());
	} catch (const std::exception &e) {
		describe(op, e.what(), in.begin(), in.size());
	}
	panic_now();
}

// The same for functions that return no tensor.
template <class F> void run(const char *op, std::initializer_list<at_t> in, F f)
{
	try {
		for (at_t t : in)
			need(t);
		f();
		return;
	} catch (const std::exception &e) {
		describe(op, e.what(), in.begin(), in.size());
	}
	panic_now();
}

inline at::IntArrayRef ref(const at_dims &s)
{
	return at::IntArrayRef(s.d, static_cast<size_t>(s.n));
}
at::ScalarType scalar_type(at_dtype dt);
at_dtype dtype_of(at::ScalarType t);
at::TensorOptions options(at_dtype dt, at_device dev);
} // namespace shim
