/*
 * test_place.c -- every rank its GPU, before CUDA is called: mpirun -n N test_place.  The library of
 * fake_nvml.c is NVML here.
 */
#include "base/machine/gpus.h"
#include "dist/dist.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) check((cond), #cond, __LINE__)

static struct dist d;
static const char *now;
static char early[GPU_NAME]; /* CUDA_VISIBLE_DEVICES, as it was before MPI started */

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	fprintf(
	    stderr, "test_place.c:%d: rank %d of %d, %s, CUDA_VISIBLE_DEVICES '%s', %d GPUs: not so: %s\n",
	    line, d.machine_rank, d.machine_ranks, now,
	    getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "(unset)", dist_gpus(&d), what);
	dist_abort(1);
}

static void put(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

/* The driver's GPUs, and CUDA_VISIBLE_DEVICES before and after (NULL: not set). */
static void place(const char *what, const char *gpus, const char *before, const char *after)
{
	const char *is;

	now = what;
	put("FAKE_GPUS", gpus);
	put("CUDA_VISIBLE_DEVICES", before);
	dist_place_gpu(&d);
	is = getenv("CUDA_VISIBLE_DEVICES");
	CHECK(after ? is && !strcmp(is, after) : !is);
}

static int least(int a, int b)
{
	return a < b ? a : b;
}

/* Several GPUs before everybody's eyes. */
static void test_shared_view(void)
{
	static const char *const digit[] = { "0", "1", "2", "3", "4", "5", "6", "7" };
	static const char *const three[] = { "5", "3", "GPU-00000000-0000-0000-0000-00000000000b" };
	bool many = d.machine_ranks > 1;

	place("eight", "abcdefgh", NULL, many ? digit[d.rank] : NULL);
	CHECK(dist_gpus(&d) == d.ranks);
	place("two", "ab", NULL, many ? digit[d.rank % 2] : NULL);
	CHECK(dist_gpus(&d) == least(d.ranks, 2));
	place("two of four", "-a-b", NULL, many ? digit[d.rank % 2] : NULL);
	CHECK(dist_gpus(&d) == least(d.ranks, 2));
	const char *list = "5,3 ,GPU-00000000-0000-0000-0000-00000000000b,9,1";
	place("a list", "abcdefgh", list, many ? three[d.rank % 3] : list);
	CHECK(dist_gpus(&d) == least(d.ranks, 3));
	place("MIG", "a", "MIG-1,MIG-2", many ? d.rank % 2 ? "MIG-2" : "MIG-1" : "MIG-1,MIG-2");
	CHECK(dist_gpus(&d) == least(d.ranks, 2));
}

/* A launcher has chosen: with control groups, and without. */
static void test_one_each(void)
{
	char gpu[2] = { (char)('a' + d.rank), '\0' }, uuid[64], index[2] = { (char)('0' + d.rank), '\0' };

	snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-00000000000%c", 'a' + d.rank);
	place("a control group each", gpu, "0", "0");
	CHECK(dist_gpus(&d) == d.ranks);
	place("a control group each, no list", gpu, NULL, NULL);
	CHECK(dist_gpus(&d) == d.ranks);
	place("an index each", "abcdefgh", index, index);
	CHECK(dist_gpus(&d) == d.ranks);
	place("a UUID each", "abcdefgh", uuid, uuid);
	CHECK(dist_gpus(&d) == d.ranks);
}

static void test_one_for_all(void)
{
	place("one", "a", NULL, NULL);
	CHECK(dist_gpus(&d) == 1);
	place("one of eight", "abcdefgh", "3", "3");
	CHECK(dist_gpus(&d) == 1);
	/* the same one by two names */
	const char *name = d.rank % 2 ? "1" : "GPU-00000000-0000-0000-0000-00000000000b";
	place("two names", "abcd", name, name);
	CHECK(dist_gpus(&d) == 1);
}

/* Whether two have the same cannot be known: nobody is refused. */
static void test_none(void)
{
	static const char *const hidden[] = { "", "-1", "no", "1,1" };

	gpus_root = "/dev/null"; /* the machine may have one */
	place("no driver", NULL, NULL, NULL);
	CHECK(dist_gpus(&d) == d.ranks);
	place("no driver, a list", NULL, "0,1", "0,1");
	CHECK(dist_gpus(&d) == d.ranks);
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
		place("all hidden", "abcd", hidden[i], hidden[i]);
		CHECK(dist_gpus(&d) == d.ranks);
	}
	gpus_root = "";
}

/* As many GPUs as trainers: the servers share with them, and do not count where trainers are counted. */
static void test_servers(void)
{
	char gpus[9] = "abcdefgh", mine[2] = { (char)('0' + d.rank % (d.ranks - 1)), '\0' };
	int trainers = d.ranks - 1;

	gpus[trainers] = '\0';
	place("a server", gpus, NULL, mine);
	CHECK(dist_gpus(&d) == trainers);
	dist_split(&d, 1);
	CHECK(d.serves || (d.local_ranks == trainers && dist_gpus(&d) == trainers));
}

/* Before MPI starts, by what mpirun says; and by what srun says. */
static void place_early(void)
{
	now = "early";
	put("FAKE_GPUS", "abcdefgh");
	put("CUDA_VISIBLE_DEVICES", NULL);
	dist_place_gpu_early();
	snprintf(early, sizeof early, "%s",
		 getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "");
	put("OMPI_COMM_WORLD_LOCAL_RANK", NULL);
	put("SLURM_LOCALID", "3");
	for (int i = 0; i < 4; i++) {
		static const char *const tasks[] = { NULL, "1", "1(x4)", "4(x2),2" };

		put("CUDA_VISIBLE_DEVICES", "7,6,5,4");
		put("SLURM_STEP_TASKS_PER_NODE", tasks[i]);
		dist_place_gpu_early();
		CHECK(!strcmp(getenv("CUDA_VISIBLE_DEVICES"), i < 3 ? "7,6,5,4" : "4"));
	}
	put("SLURM_LOCALID", NULL);
	put("CUDA_VISIBLE_DEVICES", *early ? early : NULL);
}

static void test_early(void)
{
	char mine[2] = { (char)('0' + d.rank), '\0' };

	CHECK(!strcmp(early, d.ranks > 1 ? mine : ""));
	place("chosen early", "abcdefgh", *early ? early : NULL, *early ? early : NULL);
	CHECK(dist_gpus(&d) == d.ranks);
}

int main(void)
{
	struct err e;

	place_early();
	if (dist_open(&d, &e)) {
		fprintf(stderr, "test_place.c: %s\n", e.msg);
		return 1;
	}
	test_early();
	test_shared_view();
	test_one_each();
	test_one_for_all();
	test_none();
	if (d.ranks > 2)
		test_servers();
	if (d.machine_rank == 0)
		puts("ok place");
	dist_close(&d);
	return 0;
}
