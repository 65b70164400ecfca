/* Limits of control groups in made-up trees, and how processes share CPUs.  The files are the kernel's
 * (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst). */
#include "base/machine/cgroup.h"
#include "base/machine/cores.h"
#include "base/file.h"
#include "base/mem.h"
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB 1048576.0

static char root[] = "/tmp/cgroup-XXXXXX";

static int make_root(void **state)
{
	(void)state;
	return mkdtemp(root) ? 0 : -1;
}

static int drop_root(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(root, &e);
}

/* An empty tree for each test. */
static int empty_root(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(root, &e) || file_mkdirs(root, &e);
}

static void put(const char *path, const char *text)
{
	char *full = mem_printf("%s/%s", root, path), *dir = file_dir(full);
	struct err e;

	assert_int_equal(file_mkdirs(dir, &e), 0);
	assert_int_equal(file_write(full, text, strlen(text), &e), 0);
	free(full);
	free(dir);
}

/* CPUs of the tightest quota; 0: there is none. */
static double tightest(void)
{
	struct cgroup_quota q[8];
	int n = cgroup_quotas(root, q, 8);
	double least = 0;

	for (int i = 0; i < n; i++)
		if (!i || q[i].cpus < least)
			least = q[i].cpus;
	return least;
}

#define CG   "sys/fs/cgroup/"
#define V1   "9223372036854771712\n" /* no limit */
#define STAT "anon 1000\nfile 30000000\ninactive_file 10485760\nactive_file 5\n"

static void test_none(void **state)
{
	(void)state;
	assert_true(cgroup_memory(root) < 0);
	assert_true(tightest() == 0);
	put("proc/self/cgroup", "0::/user.slice/session-2.scope\n");
	assert_true(cgroup_memory(root) < 0);
	assert_true(tightest() == 0);
	put(CG "user.slice/memory.max", "max\n");
	put(CG "user.slice/memory.current", "5000\n");
	put(CG "user.slice/cpu.max", "max 100000\n");
	assert_true(cgroup_memory(root) < 0);
	assert_true(tightest() == 0);
	put("proc/self/cgroup", "2:memory:/user.slice\n");
	put(CG "memory/user.slice/memory.limit_in_bytes", V1);
	assert_true(cgroup_memory(root) < 0);
}

/* Slurm's: the limit is the job's, the process is two groups below. */
static void test_v2_nested(void **state)
{
	(void)state;
	put("proc/self/cgroup", "0::/system.slice/job_7/step_0/task_1\n");
	put(CG "system.slice/job_7/step_0/task_1/memory.max", "max\n");
	put(CG "system.slice/job_7/step_0/task_1/memory.current", "104857600\n");
	put(CG "system.slice/job_7/memory.max", "1073741824\n");
	put(CG "system.slice/job_7/memory.current", "209715200\n");
	put(CG "system.slice/job_7/memory.stat", STAT);
	put(CG "system.slice/memory.max", "4294967296\n");
	put(CG "system.slice/memory.current", "3221225472\n");
	assert_true(cgroup_memory(root) == (1024 - 200 + 10) * MIB);
	/* the group above has less left, though its limit is higher */
	put(CG "system.slice/memory.current", "4194304000\n");
	assert_true(cgroup_memory(root) == 96 * MIB);
	put(CG "system.slice/memory.current", "5000000000\n");
	assert_true(cgroup_memory(root) == 0);
	put(CG "system.slice/job_7/cpu.max", "350000 100000\n");
	put(CG "system.slice/job_7/step_0/cpu.max", "max 100000\n");
	put(CG "system.slice/cpu.max", "800000 100000\n");
	assert_true(tightest() == 3.5);
}

/* A container sees its own group as the root, whatever the path says. */
static void test_v2_container(void **state)
{
	static const char *const path[] = { "0::/\n", "0::/docker/abc\n", "0::/../other\n" };

	(void)state;
	put(CG "memory.max", "1073741824\n");
	put(CG "memory.current", "73741824\n");
	put(CG "cpu.max", "50000 100000\n");
	put("sys/fs/other/memory.max", "1\n");
	assert_true(cgroup_memory(root) == 1e9); /* no /proc */
	for (int i = 0; i < 3; i++) {
		put("proc/self/cgroup", path[i]);
		assert_true(cgroup_memory(root) == 1e9);
		assert_true(tightest() == 0.5);
	}
}

static void test_v1(void **state)
{
	(void)state;
	put("proc/self/cgroup", "9:memory:/slurm/uid_5/job_1\n4:cpu,cpuacct:/slurm/job_1\n3:cpuset:/a:b\n");
	put(CG "memory/memory.limit_in_bytes", V1);
	put(CG "memory/memory.usage_in_bytes", "77777777777\n");
	put(CG "memory/slurm/memory.limit_in_bytes", V1);
	put(CG "memory/slurm/uid_5/memory.limit_in_bytes", "2147483648\n");
	put(CG "memory/slurm/uid_5/memory.usage_in_bytes", "1073741824\n");
	put(CG "memory/slurm/uid_5/memory.stat", "inactive_file 1\ntotal_inactive_file 1048576\n");
	put(CG "memory/slurm/uid_5/job_1/memory.limit_in_bytes", V1);
	assert_true(cgroup_memory(root) == 1025 * MIB);
	put(CG "cpu,cpuacct/slurm/job_1/cpu.cfs_quota_us", "-1\n");
	put(CG "cpu,cpuacct/slurm/job_1/cpu.cfs_period_us", "100000\n");
	assert_true(tightest() == 0);
	put(CG "cpu,cpuacct/slurm/cpu.cfs_quota_us", "600000\n");
	put(CG "cpu,cpuacct/slurm/cpu.cfs_period_us", "200000\n");
	assert_true(tightest() == 3);
}

/* Both versions: memory in the old one, CPUs in the new one, which is mounted below the old. */
static void test_hybrid(void **state)
{
	(void)state;
	put("proc/self/cgroup", "4:memory:/box\n1:name=systemd:/init.scope\n0::/box/run\n");
	put(CG "memory/box/memory.limit_in_bytes", "1048576000\n");
	put(CG "memory/box/memory.usage_in_bytes", "48576000\n");
	put(CG "unified/box/cpu.max", "200000 100000\n");
	assert_true(cgroup_memory(root) == 1e9);
	assert_true(tightest() == 2);
}

/* What is used may be unreadable; a limit is one all the same. */
static void test_missing(void **state)
{
	(void)state;
	put("proc/self/cgroup", "nonsense\n0::/a\n:\n");
	put(CG "a/memory.max", "1000\n");
	put(CG "a/cpu.max", "100000\n");
	assert_true(cgroup_memory(root) == 1000);
	assert_true(tightest() == 0);
	put(CG "a/cpu.max", "100000 0\n");
	assert_true(tightest() == 0);
}

/* Tasks of one job have one number for it, another job's a different one; each group counts once, however
 * many names it has. */
static void test_groups(void **state)
{
	struct cgroup_quota first[8], second[8], other[8];

	(void)state;
	put(CG "job_1/cpu.max", "200000 100000\n");
	put(CG "job_1/task_0/cpu.max", "max 100000\n");
	put(CG "job_1/task_1/cpu.max", "200000 100000\n"); /* as the job's: both count */
	put(CG "job_2/cpu.max", "200000 100000\n");
	put("proc/self/cgroup", "0::/job_1/task_0\n");
	assert_int_equal(cgroup_quotas(root, first, 8), 1);
	put("proc/self/cgroup", "0::/job_1/task_1\n");
	assert_int_equal(cgroup_quotas(root, second, 8), 2);
	assert_int_equal(cgroup_quotas(root, second, 1), 1);
	put("proc/self/cgroup", "0::/job_2\n");
	assert_int_equal(cgroup_quotas(root, other, 8), 1);
	assert_true(first[0].cpus == 2 && second[0].cpus == 2 && second[1].cpus == 2 && other[0].cpus == 2);
	assert_true(first[0].group == second[1].group && first[0].group != second[0].group);
	assert_true(first[0].group != other[0].group);
	put("proc/self/cgroup", "4:cpu,cpuacct:/job\n");
	put(CG "cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n");
	put(CG "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
	char *link = mem_printf("%s/" CG "cpu", root);
	assert_int_equal(symlink("cpu,cpuacct", link), 0);
	free(link);
	assert_int_equal(cgroup_quotas(root, other, 8), 1);
}

/* ---- cores ---- */

static struct cores cores(uint64_t mask, double quota, uint64_t group)
{
	return (struct cores) { .mask = { mask }, .quota = { { group, quota } }, .quotas = quota > 0 };
}

static void test_masks(void **state)
{
	struct cores one = cores(0xff, 0, 0), same[4], bound[4],
		     mixed[3] = { cores(0xf, 0, 0), cores(0xf, 0, 0) };
	struct cores wide = { .mask = { [CORES_MOST / 64 - 1] = 3, [1] = 1 } };

	(void)state;
	for (int i = 0; i < 4; i++) {
		same[i] = one;
		bound[i] = cores(3ull << 2 * i, 0, 0);
	}
	mixed[2] = cores(0xff0, 0, 0);
	assert_int_equal(cores_share(&one, 1, 0), 8);
	assert_int_equal(cores_count(&wide), 3);
	assert_int_equal(cores_share(&wide, 1, 0), 3);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(cores_share(same, 4, i), 2);
		assert_int_equal(cores_share(same, 3, i % 3), 2); /* 8 of 3: none waits for another's */
		assert_int_equal(cores_share(bound, 4, i), 2);
	}
	assert_int_equal(cores_share(mixed, 3, 1), 2);
	assert_int_equal(cores_share(mixed, 3, 2), 8);
	same[0] = same[1] = cores(1, 0, 0);
	assert_int_equal(cores_share(same, 2, 0), 1);
}

static void test_quotas(void **state)
{
	struct cores all[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		all[i] = cores(0xffffffff, 6, i / 2);
	assert_int_equal(cores_share(all, 1, 0), 6);
	assert_int_equal(cores_share(all, 4, 0), 3); /* two a group, and eight CPUs each */
	all[0].quota[0].cpus = 1.9;
	assert_int_equal(cores_share(all, 1, 0), 1);
	all[0].quota[0].cpus = 0.2;
	assert_int_equal(cores_share(all, 1, 0), 1);
	/* ranks that are bound are still of one quota */
	for (int i = 0; i < 4; i++)
		all[i] = cores(0xfull << 4 * i, 8, 1);
	assert_int_equal(cores_share(all, 4, 3), 2);
}

/* A job's group over its tasks' own, whose quotas are together more than the job's. */
static void test_nested_quotas(void **state)
{
	static const struct {
		double job, task;
		int share;
	} want[] = { { 8, 4, 1 }, { 64, 4, 4 }, { 16, 16, 2 }, { 8, 8, 1 }, { 20, 2.5, 2 } };
	struct cores all[8];

	(void)state;
	for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
		for (int i = 0; i < 8; i++) {
			all[i] = cores(~0ull, want[k].task, 100 + (uint64_t)i);
			all[i].quota[all[i].quotas++] = (struct cgroup_quota) { 1, want[k].job };
		}
		for (int i = 0; i < 8; i++)
			assert_int_equal(cores_share(all, 8, i), want[k].share);
	}
}

/* As taskset leaves them: what nproc says. */
static void test_own_mask(void **state)
{
	struct cores c;
	cpu_set_t set;
	int status, cpu = 0;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	cores_read(&c);
	assert_int_equal(cores_count(&c), CPU_COUNT(&set));
	assert_true(cores_share(&c, 1, 0) >= 1 && cores_share(&c, 1, 0) <= CPU_COUNT(&set));
	while (!CPU_ISSET(cpu, &set))
		cpu++;
	int all = CPU_COUNT(&set);
	pid_t child = fork();
	if (!child) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		sched_setaffinity(0, sizeof set, &set);
		cores_read(&c);
		_exit(cores_share(&c, 1, 0) == 1 && (cores_of_launcher() > 1) == (all > 1) &&
			      c.mask[cpu / 64] == 1ull << cpu % 64
			  ? 0
			  : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_none, empty_root),
		cmocka_unit_test_setup(test_v2_nested, empty_root),
		cmocka_unit_test_setup(test_v2_container, empty_root),
		cmocka_unit_test_setup(test_v1, empty_root),
		cmocka_unit_test_setup(test_hybrid, empty_root),
		cmocka_unit_test_setup(test_missing, empty_root),
		cmocka_unit_test_setup(test_groups, empty_root),
		cmocka_unit_test(test_masks),
		cmocka_unit_test(test_quotas),
		cmocka_unit_test(test_nested_quotas),
		cmocka_unit_test(test_own_mask),
	};
	return cmocka_run_group_tests(tests, make_root, drop_root);
}
