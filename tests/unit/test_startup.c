/* What a command's start says of GPUs and threads.  The linker puts this file's at_cuda_devices and dist_gpus
 * in the place of the real ones (--wrap), and NVML is tests/mpi/fake_nvml.c. */
#include "base/machine/gpus.h"
#include "dist/startup.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static int devices, gpus;

int __wrap_at_cuda_devices(void);
int __wrap_dist_gpus(const struct dist *d);

int __wrap_at_cuda_devices(void)
{
	return devices;
}

int __wrap_dist_gpus(const struct dist *d)
{
	(void)d;
	return gpus;
}

static void put(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

/* ---- GPUs ---- */

/* The error, or "". */
static const char *device(int ranks, int different, int seen)
{
	struct dist d = { .ranks = 1, .local_ranks = ranks, .machine_ranks = ranks };
	static struct err e;
	enum at_device dev;

	e.msg[0] = '\0';
	gpus = different;
	devices = seen;
	at_device_set_auto(AT_CUDA);
	int ret = startup_device(&dev, "auto", &d, &e);
	assert_int_equal(ret, *e.msg ? -1 : 0);
	return e.msg;
}

static void test_a_gpu_each(void **state)
{
	(void)state;
	put("FAKE_GPUS", "ab");
	put("CUDA_VISIBLE_DEVICES", "1");
	assert_string_equal(device(2, 2, 1), "");
	assert_string_equal(device(1, 1, 4), "");
	assert_string_equal(device(2, 1, 1),
			    "2 ranks on this machine and 1 GPU: start one rank per GPU, or say cpu "
			    "(run.device, --device)");
	assert_string_equal(device(3, 2, 1),
			    "3 ranks on this machine and 2 GPUs: start one rank per GPU, or say "
			    "cpu (run.device, --device)");
}

/* Ranks that all see all GPUs: why they do, and what to do. */
static void test_several_gpus(void **state)
{
	struct dist d = { .ranks = 1, .local_ranks = 1, .machine_ranks = 3, .serves = true };
	struct err e;

	(void)state;
	put("CUDA_VISIBLE_DEVICES", NULL);
	put("FAKE_GPUS", "ab");
	assert_string_equal(device(2, 2, 2),
			    "CUDA was started (perhaps by MPI) before each rank had its GPU: let "
			    "the launcher choose (srun --gpus-per-task=1)");
	put("FAKE_GPUS", NULL);
	gpus_root = "/dev/null";
	assert_string_equal(
	    device(2, 2, 8),
	    "each of the 2 ranks on this machine sees 8 GPUs, and NVML, which would tell them apart, is "
	    "not found: let the launcher show each rank one GPU (srun --gpus-per-task=1), or set "
	    "CUDA_VISIBLE_DEVICES for each");
	assert_int_equal(startup_one_gpu(&d, &e), -1); /* a reward rank */
	devices = 1;
	assert_int_equal(startup_one_gpu(&d, &e), 0);
	gpus_root = "";
}

/* ---- Threads ---- */

/* Settles them, and returns what was said on the way. */
static const char *threads(const struct dist *d, int64_t n)
{
	static char said[1024];
	FILE *f = tmpfile();
	int before = dup(2);
	struct err e;
	size_t size;

	assert_non_null(f);
	dup2(fileno(f), 2);
	int ret = startup_threads(d, n, &e);
	dup2(before, 2);
	close(before);
	rewind(f);
	size = fread(said, 1, sizeof said - 1, f);
	said[size] = '\0';
	fclose(f);
	assert_int_equal(ret, 0);
	return said;
}

static void test_one_rule(void **state)
{
	static const char *const nothing[] = { NULL, "", "no", "0", "-2", "99999999999" };
	struct dist d = { .ranks = 1, .machine_ranks = 1, .cores = 3 };

	(void)state;
	for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
		put("OMP_NUM_THREADS", nothing[i]);
		threads(&d, 0);
		assert_int_equal(at_threads(), 3);
	}
	put("OMP_NUM_THREADS", "2,1");
	threads(&d, 0);
	assert_int_equal(at_threads(), 2);
	threads(&d, 5);
	assert_int_equal(at_threads(), 5);
	put("OMP_NUM_THREADS", NULL);
}

static void test_range(void **state)
{
	static const int64_t bad[] = { -1, 1025, 4294967296 };
	struct dist d = { .ranks = 1, .machine_ranks = 1, .cores = 3 };
	struct err e;

	(void)state;
	threads(&d, 2);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(startup_threads(&d, bad[i], &e), -1);
		assert_non_null(strstr(e.msg, ": must be in [0, 1024]"));
	}
	assert_string_equal(e.msg, "--threads 4294967296: must be in [0, 1024]");
	assert_int_equal(at_threads(), 2);
}

/* Whoever bound the ranks is who must be told not to. */
static void test_bound(void **state)
{
	struct dist d = { .ranks = 2, .machine_ranks = 2, .cores = 1, .held = 1, .held_of = 8, .mpi = true };

	(void)state;
	put("SLURM_STEP_ID", NULL);
	put("OMPI_COMM_WORLD_SIZE", "2");
	assert_non_null(strstr(threads(&d, 0), "to 1 of 8 CPUs: 1 thread (with mpirun --bind-to none: 4)\n"));
	assert_non_null(strstr(threads(&d, 4),
			       "4 threads, but the launcher binds this process to 1 of 8 CPUs "
			       "(mpirun --bind-to none)\n"));
	put("SLURM_STEP_ID", "0"); /* mpirun in a job of Slurm */
	assert_non_null(strstr(threads(&d, 0), "(with mpirun --bind-to none: 4)\n"));
	put("OMPI_COMM_WORLD_SIZE", NULL);
	assert_non_null(strstr(threads(&d, 0), "to 1 of 8 CPUs: 1 thread (with srun --cpu-bind=none: 4)\n"));
	assert_non_null(strstr(threads(&d, 4), "of 8 CPUs (srun --cpu-bind=none)\n"));
	put("OMP_NUM_THREADS", "1"); /* as asked for */
	assert_string_equal(threads(&d, 0), "");
	put("OMP_NUM_THREADS", "2");
	assert_non_null(
	    strstr(threads(&d, 0), "2 threads, but the launcher binds this process to 1 of 8 CPUs"));
	put("OMP_NUM_THREADS", NULL);
	d.mpi = false;
	assert_non_null(strstr(threads(&d, 4), "of 8 CPUs\n"));
	put("SLURM_STEP_ID", NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_gpu_each), cmocka_unit_test(test_several_gpus),
		cmocka_unit_test(test_one_rule),   cmocka_unit_test(test_range),
		cmocka_unit_test(test_bound),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
