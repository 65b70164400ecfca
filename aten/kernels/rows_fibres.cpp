// rows_fibres.cpp -- the GPU's kernels as fibres of one thread (fibres.hpp): for tests, with the sanitizers
// of the CPU.
#include "aten/kernels/fibres.hpp"
#include "aten/kernels/launches.hpp"
#include "aten/kernels/rows.cu"
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <ucontext.h>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace fibres
{
index thread_at, block_at, block_size;

namespace
{
constexpr size_t STACK = 256 << 10;

// Where `count` fibres meet, again and again. Two rounds of values: who is late still reads the last one's.
struct meeting {
	unsigned count = 0, here = 0;
	uint64_t round = 0;
	double value[2][32];
};

struct fibre {
	ucontext_t context;
	std::unique_ptr<char[]> stack;
	bool done;
	const meeting *waits; // for the round after `round` to begin
	uint64_t round;
	const char *at;
	void *shadow; // the sanitizer's
};

std::vector<fibre> all;
std::vector<meeting> warp;
meeting block;
ucontext_t home;
size_t current;
std::map<std::string, int> ran;
struct {
	const char *name;
	void (*body)(void *);
	void *ctx;
} work;

#ifdef __SANITIZE_ADDRESS__
const void *home_stack;
size_t home_size;
void *home_shadow;
void leave(void **shadow, const void *stack, size_t size)
{
	__sanitizer_start_switch_fiber(shadow, stack, size);
}
void arrive(void *shadow, const void **stack, size_t *size)
{
	__sanitizer_finish_switch_fiber(shadow, stack, size);
}
#endif

[[noreturn]] void wrong(const char *what)
{
	fprintf(stderr, "%s, block %u %u, thread %u: %s\n", work.name, block_at.x, block_at.y, thread_at.x,
		what);
	abort();
}

void to_home(bool for_ever)
{
	fibre &f = all[current];
#ifdef __SANITIZE_ADDRESS__
	leave(for_ever ? nullptr : &f.shadow, home_stack, home_size);
#endif
	if (for_ever)
		setcontext(&home);
	swapcontext(&f.context, &home);
#ifdef __SANITIZE_ADDRESS__
	arrive(f.shadow, &home_stack, &home_size);
#endif
}

void to_fibre(size_t i)
{
	current = i;
	thread_at = { static_cast<unsigned>(i), 0, 0 };
#ifdef __SANITIZE_ADDRESS__
	leave(&home_shadow, all[i].stack.get(), STACK);
#endif
	swapcontext(&home, &all[i].context);
#ifdef __SANITIZE_ADDRESS__
	arrive(home_shadow, nullptr, nullptr);
#endif
}

void start()
{
#ifdef __SANITIZE_ADDRESS__
	arrive(nullptr, &home_stack, &home_size);
#endif
	work.body(work.ctx);
	all[current].done = true;
	to_home(true);
}

// Returns when all have come.
void meet(meeting &m, const char *at)
{
	fibre &f = all[current];
	if (++m.here == m.count) {
		m.here = 0;
		m.round++;
		return;
	}
	f.waits = &m, f.round = m.round, f.at = at;
	to_home(false);
	f.waits = nullptr;
}

double shuffle(uint32_t mask, double x, int far)
{
	if (mask != 0xffffffffu)
		wrong("a shuffle of less than a warp");
	meeting &m = warp[current / 32];
	double *value = m.value[m.round % 2];
	value[current % 32] = x;
	meet(m, "a shuffle");
	return value[current % 32 ^ static_cast<size_t>(far)];
}

void run_block(unsigned threads)
{
	warp.assign(threads / 32, meeting());
	for (meeting &m : warp)
		m.count = 32;
	block = meeting();
	block.count = threads;
	for (size_t i = 0; i < threads; i++) {
		fibre &f = all[i];
		f.done = false, f.waits = nullptr;
		getcontext(&f.context);
		f.context.uc_stack.ss_sp = f.stack.get();
		f.context.uc_stack.ss_size = STACK;
		f.context.uc_link = nullptr;
		makecontext(&f.context, start, 0);
	}
	for (unsigned left = threads; left;) {
		bool moved = false;
		for (size_t i = 0; i < threads; i++) {
			fibre &f = all[i];
			if (f.done || (f.waits && f.waits->round == f.round))
				continue;
			moved = true;
			to_fibre(i);
			left -= f.done;
		}
		if (!moved)
			for (size_t i = 0; i < threads; i++)
				if (!all[i].done) {
					thread_at.x = static_cast<unsigned>(i);
					wrong((std::string("waits for ever at ") + all[i].at).c_str());
				}
	}
}
} // namespace

float shuffle_xor(uint32_t mask, float x, int far)
{
	return static_cast<float>(shuffle(mask, x, far));
}
double shuffle_xor(uint32_t mask, double x, int far)
{
	return shuffle(mask, x, far);
}
void wait_for_block()
{
	meet(block, "__syncthreads");
}

void run(const char *name, int64_t x, int64_t y, int threads, void (*body)(void *ctx), void *ctx)
{
	const auto n = static_cast<size_t>(threads);

	work = { name, body, ctx };
	if (!rows::may_launch({ x, y }) || n % 32 || n > 1024)
		wrong("a grid or block that no GPU takes");
	while (all.size() < n) {
		all.emplace_back();
		all.back().stack.reset(new char[STACK]);
	}
	block_size = { static_cast<unsigned>(threads), 1, 1 };
	for (block_at.y = 0; block_at.y < y; block_at.y++)
		for (block_at.x = 0; block_at.x < x; block_at.x++)
			run_block(static_cast<unsigned>(threads));
	ran[name]++;
}
} // namespace fibres

extern "C" int fibres_ran(const char *kernel)
{
	return fibres::ran[kernel];
}

// ---- The sizes of launches, for every batch and sequence that a run may have -----------------------------
namespace
{
constexpr bool covers(int64_t S, int64_t B, int64_t H, int64_t K)
{
	using namespace rows;
	const int64_t D = H * K;
	const grid_size token = per_token(S, B), row = per_row(B * S, 32), head = per_row(B * S * H, 32),
			columns = per_thread(B * D);

	return may_launch(token) && may_launch(row) && may_launch(head) && may_launch(columns) &&
	       token.x * (THREADS / 32) >= S && (token.x - 1) * (THREADS / 32) < S && token.y == B &&
	       row.x * THREADS >= B * S * 32 && head.x * THREADS >= B * S * H * 32 &&
	       columns.x * THREADS >= B * D;
}
constexpr bool covers_all()
{
	for (int64_t B = 1; B <= 4096; B = B < 64 ? B + 1 : B * 2)
		for (int64_t S = 1229; S <= 4429; S += 25)
			for (int64_t K = 64; K <= 256; K += 64)
				if (!covers(S, B, 1536 / K, K))
					return false;
	return true;
}
static_assert(covers_all(), "every row has its lanes, in a grid that a GPU takes");
static_assert(rows::per_token(1, 65535).y == rows::MOST_Y && !rows::may_launch(rows::per_token(1, 65536)) &&
		  !rows::may_launch(rows::per_thread(0)) && rows::per_row(8, 32).x == 1 &&
		  rows::per_row(9, 32).x == 2,
	      "and no more");
} // namespace
