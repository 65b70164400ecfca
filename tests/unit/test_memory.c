/* aten/memory.h: what tensors of known sizes take, at once and at the most. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "aten/memory.h"

#define MIB     1048576
#define SLACK   65536 /* what allocators add to blocks, and scalars beside them */
#define NUMBERS (MIB / 4)

static struct at_memory read_now(void)
{
	struct at_memory m;

	at_memory_read(AT_CPU, &m);
	return m;
}

static void near(size_t got, size_t want)
{
	if (got < want || got > want + SLACK)
		fail_msg("%zu bytes, not %zu", got, want);
}

static void test_blocks(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	size_t before;

	(void)state;
	at_memory_count_anew(AT_CPU);
	before = read_now().now;
	assert_int_equal(read_now().peak, before);
	at_t a = at_empty(DIMS(3, NUMBERS), AT_F32, AT_CPU);
	near(read_now().now - before, 3 * MIB);
	at_t view = at_narrow(a, 0, 1, 1); /* no memory of its own, but it keeps all of a's */
	at_drop(a);
	near(read_now().now - before, 3 * MIB);
	at_t b = at_add(view, 1.0);
	near(read_now().now - before, 4 * MIB);
	at_drop(view);
	near(read_now().now - before, MIB);
	near(read_now().peak - before, 4 * MIB);
	at_memory_count_anew(AT_CPU);
	near(read_now().peak - before, MIB);
	at_drop(b);
	assert_int_equal(read_now().now, before);
	near(read_now().peak - before, MIB); /* a peak stays */
	at_end(s);
}

/* What an op needs on its way counts, and so do gradients. */
static void test_ops(void **state)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t x = at_full(DIMS(NUMBERS), 2, AT_F32, AT_CPU), grad;
	size_t before;

	(void)state;
	at_set_requires_grad(x, true);
	at_memory_count_anew(AT_CPU);
	before = read_now().now;
	at_t y = at_sum(at_exp(at_mul(x, 0.5)));
	near(read_now().now - before, 2 * MIB); /* of the product, and of the exponential for the backward */
	at_grad(y, 1, &x, &grad);
	assert_true(read_now().peak - before >= 3 * MIB);
	near(read_now().now - before, 3 * MIB);
	at_end(s);
}

static void *drop_it(void *kept)
{
	at_free(kept);
	return NULL;
}

/* Counted for the process: another thread may end what this one began. */
static void test_threads(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	size_t before = read_now().now;
	at_t kept = at_keep(at_empty(DIMS(2, NUMBERS), AT_F32, AT_CPU));
	pthread_t other;

	(void)state;
	at_end(s);
	near(read_now().now - before, 2 * MIB);
	assert_int_equal(pthread_create(&other, NULL, drop_it, kept), 0);
	pthread_join(other, NULL);
	assert_int_equal(read_now().now, before);
}

/* Memory that is somebody else's is not ours. */
static void test_borrowed(void **state)
{
	static float data[NUMBERS];
	struct at_scope *s = at_begin(AT_NO_GRAD);
	size_t before = read_now().now;

	(void)state;
	at_borrow(data, DIMS(NUMBERS), AT_F32, NULL, NULL);
	assert_true(read_now().now - before < SLACK);
	at_end(s);
}

static void test_left(void **state)
{
	double all = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
	struct at_memory m = read_now();

	(void)state;
	assert_true(m.left > 0 && (double)m.left <= all);
	assert_true(m.reserved == m.now && m.reserved_peak == m.peak);
}

/* A process's own limit, which nobody else uses up. */
static void test_address_limit(void **state)
{
	const size_t room = 300 * MIB;
	struct at_memory before = read_now(), after;
	int status;

	(void)state;
	assert_true(before.own > 0 && before.own <= before.left);
	pid_t child = fork();
	if (!child) {
		long pages = 0;
		FILE *f = fopen("/proc/self/statm", "r");
		struct rlimit limit;

		if (!f || fscanf(f, "%ld", &pages) != 1)
			_exit(2);
		limit.rlim_cur = limit.rlim_max = (size_t)pages * (size_t)sysconf(_SC_PAGESIZE) + room;
		if (setrlimit(RLIMIT_AS, &limit))
			_exit(3);
		after = read_now();
		_exit(after.own <= room && after.own > room - 8 * MIB && after.left > room ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void doubled(void *ctx, const at_t *in, at_t *out)
{
	(void)ctx;
	out[0] = at_add(at_mul(in[0], 2.0), in[0]);
}

/* On a GPU: what a CUDA graph keeps is given back with it, and the next one does as the first. */
static void test_graphs(void **state)
{
	size_t before = 0;

	(void)state;
	if (!at_cuda_devices())
		skip();
	for (int round = 0; round < 3; round++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		struct at_graph *g = at_graph_new(doubled, "", 1, 1, 1);
		struct at_memory m;

		for (int run = 0; run < 3; run++) {
			struct at_scope *inner = at_begin(AT_NO_GRAD);
			at_t in = at_zeros(DIMS(16 * NUMBERS), AT_F32, AT_CUDA), out;

			at_graph_run(g, &in, &out);
			at_end(inner);
		}
		assert_true(at_graph_replays(g, NULL));
		at_memory_count_anew(AT_CUDA);
		at_memory_read(AT_CUDA, &m);
		assert_true(m.reserved >= 32 * MIB);
		at_graph_free(g);
		at_end(s);
		at_memory_count_anew(AT_CUDA);
		at_memory_read(AT_CUDA, &m);
		before = round ? before : m.reserved; /* libraries' workspaces */
		assert_true(m.reserved < 16 * MIB && m.reserved == before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks),  cmocka_unit_test(test_ops),
		cmocka_unit_test(test_threads), cmocka_unit_test(test_borrowed),
		cmocka_unit_test(test_left),    cmocka_unit_test(test_address_limit),
		cmocka_unit_test(test_graphs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
