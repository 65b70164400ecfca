// scope.cpp -- handles, scopes, and what happens when an op fails.
#include "aten/shim.hpp"
#include <atomic>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

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

// ---- Handles and scopes come and go by the hundred thousand: lists of free ones, per thread, spare the
// allocator.
thread_local at_tensor *spare;
thread_local int n_spare;
thread_local at_scope *spare_scope;

struct janitor {
	~janitor()
	{
		while (at_tensor *t = spare) {
			spare = t->next;
			delete t;
		}
		n_spare = 1 << 30; // what dies later in this thread is deleted at once
		while (at_scope *s = spare_scope) {
			spare_scope = s->outer;
			delete s;
		}
	}
	void touch() {}
};
thread_local janitor cleaner; // apart from the lists: only the slow path pays for a destructor's registration

at_tensor *new_handle(const char *op, at::Tensor &&v)
{
	at_tensor *t = spare;
	if (t) {
		spare = t->next;
		n_spare--;
		t->v = std::move(v);
		t->op = op;
		t->owner = nullptr;
		t->prev = t->next = nullptr;
	} else {
		cleaner.touch();
		t = new at_tensor { std::move(v), op, nullptr, nullptr, nullptr };
	}
	live.fetch_add(1, std::memory_order_relaxed);
	return t;
}

void destroy(at_tensor *t)
{
	t->v.reset();
	live.fetch_sub(1, std::memory_order_relaxed);
	if (n_spare >= 4096) {
		delete t;
		return;
	}
	if (!spare)
		cleaner.touch(); // this thread may end what others began and have made none itself
	t->next = spare;
	spare = t;
	n_spare++;
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

// ---- Failure
[[noreturn]] void default_panic(const char *m)
{
	fprintf(stderr, "%s\n", m);
	abort();
}
std::atomic<at_panic_fn *> panic { default_panic };
thread_local char msg[8192];
thread_local jmp_buf *landing; // where a panic inside a callback comes back to C++
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

// A panic of a callback on its way through libtorch. It carries the message: libtorch may run callbacks
// elsewhere.
struct described : std::runtime_error {
	using std::runtime_error::runtime_error;
};

[[noreturn]] void misuse(const char *op, const char *what, at_t t)
{
	shim::describe(op, what, t ? shim::operands(t) : shim::operands());
	shim::panic_now();
}
} // namespace

namespace shim
{
at_t wrap(const char *op, at::Tensor v)
{
	if (!top)
		throw std::runtime_error("no scope is open");
#ifdef CONTRAFLOW_CUDA
	// A process sees one GPU, or uses the first (dist_place_gpu): another is a thread that went astray.
	if (v.is_cuda() && v.get_device() != 0)
		throw std::runtime_error("a tensor of another GPU than this process's");
#endif
	at_tensor *t = new_handle(op, std::move(v));
	link(t, top);
	return t;
}

at_t keep(const char *op, at::Tensor v)
{
	return new_handle(op, std::move(v));
}

void describe(const char *op, const char *what, operands in, operands maybe)
{
	int line = static_cast<int>(strcspn(what, "\n")); // below it libtorch prints a C++ backtrace
	msg[0] = '\0';
	add("contraflow: a tensor operation failed%s%s\n  %s: %.*s", *context ? " at " : "", context, op,
	    line, what);
	for (at_t t : in)
		add("\n  operand %s", at_describe(t));
	for (at_t t : maybe)
		add("\n  operand %s", at_describe(t));
	for (at_scope *s = top; s; s = s->outer)
		add("\n  in %s (%s:%d)", s->func, s->file, s->line);
}

void describe(const char *op, const std::exception &e, operands in, operands maybe)
{
	if (dynamic_cast<const described *>(&e))
		snprintf(msg, sizeof msg, "%s", e.what());
	else
		describe(op, e.what(), in, maybe);
}

void panic_now()
{
	if (landing)
		longjmp(*landing, 1);
	panic.load()(msg);
	abort(); // a handler that returns is itself a bug
}

void call_back(callback f, void *ctx, const at_t *in, at_t *out)
{
	jmp_buf here;
	jmp_buf *const before = landing;
	at_scope *const inside = top;

	if (setjmp(here) == 0) {
		landing = &here;
		f(ctx, in, out);
		landing = before;
		return;
	}
	landing = before;
	while (top != inside)
		at_end(top);
	throw described(msg);
}
} // namespace shim

extern "C" {
at_scope *at_scope_begin(enum at_scope_flags f, const char *file, int line, const char *func)
{
	at_scope *s = spare_scope;
	if (s) {
		spare_scope = s->outer;
	} else {
		cleaner.touch();
		s = new at_scope;
	}
	*s = { top, nullptr, at::GradMode::is_enabled(), file, line, func };
	if (f != AT_GRAD_AS_IS)
		at::GradMode::set_enabled(f == AT_WITH_GRAD);
	return top = s;
}

void at_end(at_scope *s)
{
	if (s != top || !s)
		misuse("at_end", "not the innermost scope (a missing at_end above?)", nullptr);
	while (at_tensor *t = s->head) {
		unlink(t);
		destroy(t);
	}
	at::GradMode::set_enabled(s->grad_before);
	top = s->outer;
	s->outer = spare_scope;
	spare_scope = s;
}

at_t at_escape(at_scope *s, at_t t)
{
	if (t && t->owner == s) { // an input or a parameter passes through untouched
		if (!s->outer)
			misuse("at_escape", "there is no scope outside this one", t);
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
	if (!t)
		misuse("at_keep", "NULL operand", nullptr);
	return shim::keep(t->op, t->v);
}

void at_free(at_t t)
{
	if (t && t->owner)
		misuse("at_free", "a scope owns this tensor; only what at_keep made is freed", t);
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
	if (!t)
		return;
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

void at_panic(const char *fmt, ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	shim::describe("collective", what, {});
	shim::panic_now();
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
	static thread_local std::string buf[4]; // so that a printf can show several
	static thread_local unsigned which;
	if (!x)
		return "NULL";
	std::string &out = buf[which++ % 4];
	out = "undefined";
	if (x->v.defined()) {
		out = "a dtype that at.h does not know";
		for (int i = AT_F32; i <= AT_BOOL; i++)
			if (shim::scalar_type(static_cast<at_dtype>(i)) == x->v.scalar_type())
				out = at_dtype_name(static_cast<at_dtype>(i));
		out += "[";
		for (int64_t d = 0; d < x->v.dim(); d++)
			out += (d ? ", " : "") + std::to_string(x->v.size(d));
		out += x->v.is_cuda() ? "] on cuda" : "]";
	}
	out += std::string(" from ") + x->op;
	return out.c_str();
}
}
