// scope.cpp -- handles, scopes, and what happens when an op fails.
#include "aten/shim.hpp"
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

struct at_scope {
	at_scope *outer;
	at_tensor *head;
	bool grad_before;
	const char *file;
	int line;
	const char *func;
};

namespace
{
thread_local at_scope *top;
std::atomic<int64_t> live { 0 };

[[noreturn]] void default_panic(const char *m)
{
	fprintf(stderr, "%s\n", m);
	abort();
}
std::atomic<at_panic_fn *> panic { default_panic };
thread_local char msg[8192];
char context[256];

void add(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void add(const char *fmt, ...)
{
	size_t n = strlen(msg);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(msg + n, sizeof msg - n, fmt, ap);
	va_end(ap);
}

// Handles come and go by the hundred thousand: a list of free ones, per thread, spares the allocator.
struct freelist {
	at_tensor *head = nullptr;
	int n = 0;
	~freelist()
	{
		while (head) {
			at_tensor *t = head;
			head = t->next;
			delete t;
		}
	}
};
thread_local freelist spare;

at_tensor *new_handle(const char *op, at::Tensor &&v)
{
	at_tensor *t = spare.head;
	if (t) {
		spare.head = t->next;
		spare.n--;
		t->v = std::move(v);
		t->op = op;
	} else {
		t = new at_tensor { std::move(v), op, nullptr, nullptr, nullptr };
	}
	t->owner = nullptr;
	t->prev = t->next = nullptr;
	live.fetch_add(1, std::memory_order_relaxed);
	return t;
}

void destroy(at_tensor *t)
{
	t->v.reset();
	live.fetch_sub(1, std::memory_order_relaxed);
	if (spare.n >= 4096) {
		delete t;
		return;
	}
	t->next = spare.head;
	spare.head = t;
	spare.n++;
}

void link(at_tensor *t, at_scope *s)
{
	t->owner = s;
	t->prev = nullptr;
	t->next = s->head;
	if (s->head)
		s->head->prev = t;
	s->head = t;
}

void unlink(at_tensor *t)
{
	if (t->prev)
		t->prev->next = t->next;
	else
		t->owner->head = t->next;
	if (t->next)
		t->next->prev = t->prev;
	t->owner = nullptr;
}
} // namespace

namespace shim
{
at_t wrap(const char *op, at::Tensor v)
{
	if (!top)
		throw std::runtime_error("no scope is open");
	at_tensor *t = new_handle(op, std::move(v));
	link(t, top);
	return t;
}

at_t keep(const char *op, at::Tensor v)
{
	return new_handle(op, std::move(v));
}

void describe(const char *op, const char *what, const at_t *in, size_t n)
{
	const char *end = strstr(what, "\nException raised from"); // libtorch appends a C++ backtrace
	msg[0] = '\0';
	add("contraflow: a tensor operation failed%s%s\n  %s: %.*s", *context ? " at " : "", context, op,
	    static_cast<int>(end ? end - what : static_cast<ptrdiff_t>(strlen(what))), what);
	for (size_t i = 0; i < n; i++)
		add("\n  operand %s", at_describe(in[i]));
	for (at_scope *s = top; s; s = s->outer)
		add("\n  in %s (%s:%d)", s->func, s->file, s->line);
}

void panic_now()
{
	panic.load()(msg);
	abort(); // a handler that returns is itself a bug
}
} // namespace shim

extern "C" {
at_scope *at_scope_begin(enum at_scope_flags f, const char *file, int line, const char *func)
{
	top = new at_scope { top, nullptr, at::GradMode::is_enabled(), file, line, func };
	if (f == AT_NO_GRAD)
		at::GradMode::set_enabled(false);
	else if (f == AT_WITH_GRAD)
		at::GradMode::set_enabled(true);
	return top;
}

void at_end(at_scope *s)
{
	if (s != top) {
		shim::describe("at_end", "not the innermost scope (a missing at_end above?)", nullptr, 0);
		shim::panic_now();
	}
	while (at_tensor *t = s->head) {
		unlink(t);
		destroy(t);
	}
	at::GradMode::set_enabled(s->grad_before);
	top = s->outer;
	delete s;
}

at_t at_escape(at_scope *s, at_t t)
{
	if (t && t->owner == s) { // an input or a parameter passes through untouched
		if (!s->outer) {
			shim::describe("at_escape", "there is no scope outside this one", &t, 1);
			shim::panic_now();
		}
		unlink(t);
		link(t, s->outer);
	}
	return t;
}

at_t at_return(at_scope *s, at_t t)
{
	at_escape(s, t);
	at_end(s);
	return t;
}

void at_replace(at_scope *s, at_t *slot, at_t t)
{
	at_t old = *slot;
	*slot = at_escape(s, t);
	if (old && old != t && old->owner && old->owner == s->outer) {
		unlink(old);
		destroy(old);
	}
}

at_t at_keep(at_t t)
{
	if (!t) {
		shim::describe("at_keep", "NULL operand", nullptr, 0);
		shim::panic_now();
	}
	return shim::keep(t->op, t->v);
}

void at_free(at_t t)
{
	if (t)
		destroy(t);
}

void at_set(at_t *slot, at_t t)
{
	at_t fresh = t ? at_keep(t) : nullptr; // first, in case t is the old value
	at_free(*slot);
	*slot = fresh;
}

void at_drop(at_t t)
{
	if (t->owner)
		unlink(t);
	destroy(t);
}

void at_unwind(void)
{
	while (top)
		at_end(top);
}

int64_t at_live(void)
{
	return live.load();
}

bool at_grad_enabled(void)
{
	return at::GradMode::is_enabled();
}

at_panic_fn *at_set_panic(at_panic_fn *fn)
{
	return panic.exchange(fn ? fn : default_panic);
}

void at_panic_context(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(context, sizeof context, fmt, ap);
	va_end(ap);
}

const char *at_describe(at_t x)
{
	static thread_local char buf[4][256];
	static thread_local int which;
	char *out = buf[which = (which + 1) % 4];
	if (!x)
		return "NULL";
	size_t n = static_cast<size_t>(
	    snprintf(out, sizeof buf[0], "%s[",
		     x->v.defined() ? at_dtype_name(shim::dtype_of(x->v.scalar_type())) : "undefined"));
	if (x->v.defined())
		for (int64_t d = 0; d < x->v.dim() && n < 200; d++)
			n += static_cast<size_t>(snprintf(out + n, sizeof buf[0] - n, "%s%lld", d ? ", " : "",
							  static_cast<long long>(x->v.size(d))));
	snprintf(out + n, sizeof buf[0] - n, "] from %s", x->op);
	return out;
}
}
