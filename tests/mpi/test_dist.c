/*
 * test_dist.c -- what every rank must agree on.  mpirun -n N test_dist N; without mpirun: one rank.  "nccl"
 * behind N: the same over NCCL, one GPU a rank; without so many GPUs it exits with 77, skipped.
 *
 * A failed check ends the whole job: going on would leave the other ranks in a collective that never
 * completes.
 */
#include "base/mem.h"
#include "dist/dist.h"
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) check((cond), #cond, __LINE__)

static struct dist d;
static enum at_device device = AT_CPU; /* where tensors are summed */

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	fprintf(stderr, "test_dist.c:%d: rank %d of %d: not so: %s\n", line, d.rank, d.ranks, what);
	dist_abort(1);
}

/* Every rank holds the same n bytes. */
static bool same_everywhere(const void *data, size_t n)
{
	char *root = mem_alloc(n);
	double differ = 0;

	memcpy(root, data, n);
	dist_broadcast(&d, root, n, 0);
	differ = memcmp(root, data, n) != 0;
	dist_sum_f64(&d, &differ, 1);
	free(root);
	return differ == 0;
}

static void test_ranks(void)
{
	int64_t *count = mem_zero((size_t)d.ranks, sizeof *count);
	double *all = mem_zero((size_t)d.ranks, sizeof *all), mine = d.rank;

	CHECK(d.rank >= 0 && d.rank < d.ranks);
	CHECK(d.local_ranks == d.ranks && d.local_rank == d.rank); /* one machine */
	for (int r = 0; r < d.ranks; r++)
		count[r] = 1;
	dist_gather_f64(&d, &mine, all, count);
	for (int r = 0; r < d.ranks; r++)
		CHECK(all[r] == r);
	free(count);
	free(all);
}

/* One rank that has something else is everybody's error, and is named. */
static void test_same(void)
{
	struct err e = { "" };

	CHECK(dist_same(&d, 0xfedcba9876543210u, "x", &e) == 0);
	for (int odd = 0; odd < d.ranks && d.ranks > 1; odd++) {
		char want[64];
		/* a bit of the upper half */
		CHECK(dist_same(&d, d.rank == odd ? 1ull << 40 : 0, "theta", &e) == -1);
		snprintf(want, sizeof want, "rank %d: theta is not what rank 0 has", odd ? odd : 1);
		CHECK(!strcmp(e.msg, want));
	}
}

static void test_agree_on_success(void)
{
	struct err e = { "untouched" };

	CHECK(dist_agree(&d, 0, &e) == 0);
	CHECK(!strcmp(e.msg, "untouched"));
}

static void test_agree_on_one_failure(void)
{
	struct err e;
	char expect[64];

	for (int bad = 0; bad < d.ranks; bad++) {
		int ret = 0;
		memset(&e, 0, sizeof e);
		if (d.rank == bad)
			ret = err_set(&e, "no such file: prompts.txt");
		snprintf(expect, sizeof expect, "rank %d: no such file: prompts.txt", bad);
		CHECK(dist_agree(&d, ret, &e) == -1);
		CHECK(!strcmp(e.msg, d.ranks > 1 ? expect : "no such file: prompts.txt"));
	}
}

static void test_agree_on_many_failures(void)
{
	struct err e;
	char expect[64];

	/* The lowest rank's message is everyone's, the failing ranks' too. */
	int ret = d.rank >= d.ranks / 2 ? err_set(&e, "rank %d's own words", d.rank) : 0;
	snprintf(expect, sizeof expect, "rank %d: rank %d's own words", d.ranks / 2, d.ranks / 2);
	CHECK(dist_agree(&d, ret, &e) == -1);
	if (d.ranks > 1)
		CHECK(!strcmp(e.msg, expect));

	memset(e.msg, 'x', sizeof e.msg - 1); /* a message as long as one can be stays in its place, cut */
	e.msg[sizeof e.msg - 1] = '\0';
	CHECK(dist_agree(&d, -1, &e) == -1);
	CHECK(strlen(e.msg) < sizeof e.msg && strstr(e.msg, "xxxxxxxx"));
	CHECK(same_everywhere(e.msg, strlen(e.msg) + 1));
}

static void test_broadcast(void)
{
	static const size_t size[] = { 0, 1, (1 << 20) + 3 };

	for (int root = 0; root < d.ranks; root++)
		for (size_t k = 0; k < sizeof size / sizeof *size; k++) {
			unsigned char *p = mem_alloc(size[k] + 1);
			for (size_t i = 0; i <= size[k]; i++)
				p[i] = (unsigned char)(d.rank == root ? i * 7 + (size_t)root : 0xee);
			p[size[k]] = 0x55;
			dist_broadcast(&d, p, size[k], root);
			for (size_t i = 0; i < size[k]; i++)
				CHECK(p[i] == (unsigned char)(i * 7 + (size_t)root));
			CHECK(p[size[k]] == 0x55);
			free(p);
		}
}

/* Magnitudes far apart, so that the sum depends on the order of its terms. */
static double term(int rank, int i)
{
	return sin(1 + rank * 77.7 + i) * pow(10, (rank * 5 + i) % 9);
}

static void test_sum_f64(void)
{
	enum { N = 3001 };
	static double v[N], again[N];

	for (int i = 0; i < N; i++)
		v[i] = again[i] = term(d.rank, i);
	dist_sum_f64(&d, v, N);
	dist_sum_f64(&d, again, N);
	CHECK(!memcmp(v, again, sizeof v));
	CHECK(same_everywhere(v, sizeof v));
	for (int i = 0; i < N; i++) {
		long double exact = 0, size = 0;
		for (int r = 0; r < d.ranks; r++) {
			exact += term(r, i);
			size += fabs(term(r, i));
		}
		CHECK(fabsl(v[i] - exact) <= 1e-15L * size);
	}
	dist_sum_f64(&d, NULL, 0);
}

static void test_max_f64(void)
{
	double v[3] = { d.rank, -d.rank, d.rank == d.ranks - 1 ? 5 : -5 };

	dist_max_f64(&d, v, 3);
	CHECK(v[0] == d.ranks - 1 && v[1] == 0 && v[2] == 5);
}

static void test_gather_uneven(void)
{
	int64_t *count = mem_zero((size_t)d.ranks, sizeof *count), total = 0, at = 0;
	double *all, *mine;

	for (int r = 0; r < d.ranks; r++)
		total += count[r] = 3 * r; /* rank 0 has nothing to say */
	mine = mem_zero((size_t)(3 * d.rank), sizeof *mine);
	all = mem_zero((size_t)total, sizeof *all);
	for (int i = 0; i < 3 * d.rank; i++)
		mine[i] = d.rank + i / 10.0;
	dist_gather_f64(&d, mine, all, count);
	for (int r = 0; r < d.ranks; r++)
		for (int i = 0; i < 3 * r; i++, at++)
			CHECK(all[at] == r + i / 10.0);
	CHECK(at == total);
	free(count);
	free(mine);
	free(all);
}

/* To the rank before, to rank 0, to oneself, to nobody; nothing at all from some. */
static void test_hand_over(void)
{
	int *to = mem_zero((size_t)d.ranks, sizeof *to);
	int64_t *size = mem_zero((size_t)d.ranks, sizeof *size);

	for (int mode = 0; mode < 4; mode++) {
		int64_t get = 0, at = 0;

		for (int r = 0; r < d.ranks; r++) {
			const int whom[] = { r - 1, 0, r, -1 };
			to[r] = whom[mode];
			size[r] = r == 2 ? 0 : 1 + (r + 1) * 70001;
			get += to[r] == d.rank ? size[r] : 0;
		}
		unsigned char *out = mem_alloc((size_t)size[d.rank] + 1), *in = mem_alloc((size_t)get + 1);
		for (int64_t i = 0; i < size[d.rank]; i++)
			out[i] = (unsigned char)(i * 7 + d.rank);
		in[get] = 0x55;
		dist_hand_over(&d, to, size, out, in);
		for (int r = 0; r < d.ranks; r++)
			for (int64_t i = 0; to[r] == d.rank && i < size[r]; i++, at++)
				CHECK(in[at] == (unsigned char)(i * 7 + r));
		CHECK(at == get && in[get] == 0x55);
		free(out);
		free(in);
	}
	free(to);
	free(size);
}

static void test_sum_tensor(void)
{
	static const int64_t numel[] = { 1, 1000,
					 (1 << 22) + 12345 }; /* the last takes more than one piece */

	for (size_t k = 0; k < sizeof numel / sizeof *numel; k++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t x_P = at_empty(DIMS(numel[k]), AT_F32, AT_CPU);
		float *x = at_f32(x_P);

		for (int64_t i = 0; i < numel[k]; i++)
			x[i] = (float)term(d.rank, (int)(i % 997));
		d.reduce_seconds = 0;
		at_t there_P = at_to(x_P, AT_F32, device);
		dist_sum_tensor(&d, there_P);
		CHECK(d.reduce_seconds > 0 && d.reduce_seconds < 60);
		at_copy_(x_P, there_P);
		CHECK(same_everywhere(x, (size_t)numel[k] * sizeof *x));
		for (int64_t i = 0; i < numel[k]; i += i < 5000 ? 1 : 997) {
			double exact = 0, size = 0;
			for (int r = 0; r < d.ranks; r++) {
				exact += (float)term(r, (int)(i % 997));
				size += fabs(term(r, (int)(i % 997)));
			}
			CHECK(fabs(x[i] - exact) <= 1.2e-7 * d.ranks * size);
		}
		at_end(s);
	}
	CHECK(at_live() == 0);
}

/* What the panic handler does: rank 1 ends the job while the others wait for it.  The exit status is 3. */
static void abort_while_others_wait(void)
{
	if (d.rank == d.ranks - 1)
		dist_abort(3);
	dist_barrier(&d);
	CHECK(!"reached: a barrier without the last rank");
}

static int promised_too_many(void)
{
	struct err e = { "" };
	int up, down;

	setenv("PMI_SIZE", "2", 1);
	setenv("PMI_RANK", "1", 1);
	if (dist_open(&d, &e) == 0 || !strstr(e.msg, "the launcher started 2 ranks but MPI sees only one")) {
		fprintf(stderr, "test_dist.c: two promised ranks, one seen, and dist_open said '%s'\n",
			e.msg);
		return 1;
	}
	MPI_Initialized(&up);
	MPI_Finalized(&down);
	if (d.rank != 1 || d.comm || d.mpi || !up || !down) {
		fprintf(stderr, "test_dist.c: after that rank %d of the launcher has MPI %s\n", d.rank,
			down ? "ended" : "open");
		return 1;
	}
	puts("ok promised_too_many");
	return 0;
}

/* False without a GPU for each rank. */
static bool use_nccl(void)
{
	struct err e = { "" };

	dist_place_gpu(&d);
	if (!at_cuda_devices() || dist_gpus(&d) < d.local_ranks) {
		dist_close(&d);
		return false;
	}
	device = AT_CUDA;
	CHECK(!dist_use_nccl(&d, &e));
	return true;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "ranks", test_ranks },
		{ "same", test_same },
		{ "agree_on_success", test_agree_on_success },
		{ "agree_on_one_failure", test_agree_on_one_failure },
		{ "agree_on_many_failures", test_agree_on_many_failures },
		{ "broadcast", test_broadcast },
		{ "sum_f64", test_sum_f64 },
		{ "max_f64", test_max_f64 },
		{ "gather_uneven", test_gather_uneven },
		{ "hand_over", test_hand_over },
		{ "sum_tensor", test_sum_tensor },
	};
	struct err e;

	if (argc > 1 && !strcmp(argv[1], "promised"))
		return promised_too_many();
	if (dist_open(&d, &e)) {
		fprintf(stderr, "test_dist.c: %s\n", e.msg);
		return 1;
	}
	if (argc > 1 && !strcmp(argv[1], "abort"))
		abort_while_others_wait();
	CHECK(d.ranks == (argc > 1 ? atoi(argv[1]) : 1));
	if (argc > 2 && !use_nccl())
		return 77;
	CHECK(d.mpi == (getenv("OMPI_COMM_WORLD_SIZE") != NULL)); /* one rank over NCCL needs no MPI */
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
		tests[i].run();
		dist_barrier(&d);
		if (d.rank == 0)
			printf("ok %s\n", tests[i].name);
	}
	dist_close(&d);
	CHECK(d.ranks == 1 && !d.mpi);
	return 0;
}
