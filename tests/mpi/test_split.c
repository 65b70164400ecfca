/*
 * test_split.c -- a job divided in two: mpirun -n N test_split.  Rank 0 asks every server for echoes of all
 * sizes while the servers' own collectives and the others' go on; a rank that waits reads nobody else's mail.
 */
#include "base/mem.h"
#include "dist/dist.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(cond) check((cond), #cond, __LINE__)

static struct dist d;
static int job_rank, job_ranks;

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	fprintf(stderr, "test_split.c:%d: rank %d of %d: not so: %s\n", line, job_rank, job_ranks, what);
	dist_abort(1);
}

static void fill(char *p, size_t n, int seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char)(i * 13 + (size_t)seed);
}

static void wait_for(int *from, char **data, size_t *size)
{
	while (!dist_receive(&d, from, data, size))
		nanosleep(&(struct timespec) { 0, 20000 }, NULL);
}

/* Collectives are those of one's own part. */
static void test_collectives(int servers)
{
	double sum = job_rank, most = job_rank;
	struct err e;
	int first = d.serves ? job_ranks - servers : 0, n = d.serves ? servers : job_ranks - servers;

	CHECK(d.serves == (job_rank >= job_ranks - servers));
	CHECK(d.servers == servers && d.first_server == job_ranks - servers);
	CHECK(d.ranks == n && d.rank == job_rank - first);
	CHECK(d.local_ranks == n && d.local_rank == d.rank && d.machine_ranks == job_ranks);
	dist_sum_f64(&d, &sum, 1);
	dist_max_f64(&d, &most, 1);
	CHECK(sum == n * first + n * (n - 1) / 2.0);
	CHECK(most == first + n - 1);
	CHECK(dist_agree(&d, d.serves && d.rank == 0 ? err_set(&e, "mine") : 0, &e) == (d.serves ? -1 : 0));
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x_P = at_zeros(DIMS(5), AT_F32, AT_CPU);
	at_f32(x_P)[3] = 1;
	dist_sum_tensor(&d, x_P);
	CHECK(at_f32(x_P)[3] == (float)n && at_f32(x_P)[0] == 0);
	at_end(s);
	dist_barrier(&d);
}

static const size_t sizes[] = { 0, 1, 5000, (1 << 22) + 3 };
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Sends back what comes, in order, and stops at a message of one byte, 'x', from each who asks. */
static void serve(int clients)
{
	while (clients) {
		size_t size;
		char *data;
		int from;

		wait_for(&from, &data, &size);
		if (size == 1 && *data == 'x') {
			free(data);
			clients--;
		} else {
			CHECK(data[size] == '\0');
			dist_post(&d, from, data, size);
		}
	}
}

static void ask(void)
{
	for (int s = 0; s < d.servers; s++)
		for (int i = 0; i < SIZES; i++) {
			char *data = mem_alloc(sizes[i] + 1);
			fill(data, sizes[i], job_rank + i);
			dist_send(&d, d.first_server + s, data, sizes[i]);
			free(data);
		}
	int next[8] = { 0 };
	for (int left = d.servers * SIZES; left; left--) {
		size_t size;
		char *data, *want;
		int from;

		wait_for(&from, &data, &size);
		CHECK(from >= d.first_server && from < d.first_server + d.servers);
		int i = next[from - d.first_server]++;
		CHECK(i < SIZES && size == sizes[i]);
		want = mem_alloc(size + 1);
		fill(want, size, job_rank + i);
		CHECK(!memcmp(data, want, size));
		free(want);
		free(data);
	}
	for (int s = 0; s < d.servers; s++)
		dist_send(&d, d.first_server + s, "x", 1);
}

int main(void)
{
	struct err e;

	if (dist_open(&d, &e)) {
		fprintf(stderr, "test_split.c: %s\n", e.msg);
		return 1;
	}
	job_rank = d.rank;
	job_ranks = d.ranks;
	CHECK(!d.servers && !d.serves);
	int servers = (job_ranks + 1) / 3;
	dist_split(&d, servers);
	test_collectives(servers);
	if (d.serves)
		serve(job_ranks - servers);
	else
		ask();
	test_collectives(servers);
	dist_close(&d);
	CHECK(d.ranks == 1 && !d.servers);
	return 0;
}
