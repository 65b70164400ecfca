#include "dist/startup.h"
#include "base/machine/gpus.h"
#include "base/machine/stop.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_THREADS 1024

/* 0: it says nothing that is a number of threads. */
static int threads_of_environment(void)
{
	const char *said = getenv("OMP_NUM_THREADS"); /* "4", or "4,2" for loops in loops */
	long n = said ? strtol(said, NULL, 10) : 0;

	return n > 0 && n <= MOST_THREADS ? (int)n : 0;
}

static int threads_unasked(const struct dist *d)
{
	int n = threads_of_environment();

	return n ? n : d->cores;
}

int startup_open(struct dist *d, enum startup_ranks ranks, struct err *e)
{
	dist_alone(d);
	if (ranks == STARTUP_RANKS) {
		if (at_cuda_built())
			dist_place_gpu_early();
		if (dist_open(d, e)) {
			/* there is no barrier: a launcher may end all with the first that leaves, and rank 0
			 * has yet to speak */
			if (d->rank)
				sleep(1);
			return startup_close(d, -1, e);
		}
		log_rank(d->rank, d->ranks);
		if (at_cuda_built())
			dist_place_gpu(d);
	}
	at_set_threads(threads_unasked(d));
	return 0;
}

/* The option with which the launcher binds no rank; "": the launcher is not known. */
static const char *unbound(const struct dist *d)
{
	if (getenv("SLURM_STEP_ID") && !getenv("OMPI_COMM_WORLD_SIZE"))
		return d->mpi ? "srun --cpu-bind=none" : "";
	return d->mpi ? "mpirun --bind-to none" : "";
}

int startup_threads(const struct dist *d, int64_t threads, struct err *e)
{
	bool speaks = d->held && d->rank == 0 && !d->serves;
	int n = threads > 0 ? (int)threads : threads_unasked(d), whole = d->held_of / d->machine_ranks;
	const char *advice = unbound(d);

	if (threads < 0 || threads > MOST_THREADS)
		return err_set(e, "--threads %lld: must be in [0, %d]", (long long)threads, MOST_THREADS);
	if (speaks && n > d->held)
		log_warn("%d threads, but the launcher binds this process to %d of %d CPUs%s%s%s", n, d->held,
			 d->held_of, *advice ? " (" : "", advice, *advice ? ")" : "");
	else if (speaks && !threads && !threads_of_environment() && *advice && n < whole)
		log_info("the launcher binds this rank to %d of %d CPUs: %d thread%s (with %s: %d)", d->held,
			 d->held_of, n, n > 1 ? "s" : "", advice, whole);
	at_set_threads(n);
	return 0;
}

/* A GPU that nobody uses is most often a mistake. */
static void say_unused(const char *name)
{
	static struct gpu seen[GPUS_MOST];

	if (!gpus_visible(seen))
		return;
	if (!strcmp(name, "cpu") && at_cuda_built())
		log_info("running on the CPU although a GPU is visible: the device is 'cpu'");
	else if (strcmp(name, "cpu"))
		log_warn("running on the CPU although a GPU is visible: %s",
			 at_cuda_built() ? "CUDA does not start (is the driver too old for it?)"
					 : "this build has no CUDA (meson -Dcuda=enabled)");
}

int startup_device(enum at_device *dev, const char *name, struct dist *d, struct err *e)
{
	int ret = at_device_parse(dev, name, e);
	double on[2] = { *dev == AT_CPU, *dev == AT_CUDA };

	dist_max_f64(d, on, 2);
	if (ret)
		return -1;
	if (on[0] > 0 && on[1] > 0)
		return err_set(e,
			       "the device '%s' is a GPU on some ranks and the CPU on others: say cpu, or "
			       "start ranks only where there is a GPU",
			       name);
	at_device_set_auto(*dev);
	if (*dev == AT_CPU) {
		if (d->rank == 0)
			say_unused(name);
		return 0;
	}
	int gpus = dist_gpus(d);
	if (gpus < d->local_ranks)
		return err_set(e,
			       "%d ranks on this machine and %d GPU%s: start one rank per GPU, or say cpu "
			       "(run.device, --device)",
			       d->local_ranks, gpus, gpus == 1 ? "" : "s");
	return startup_one_gpu(d, e);
}

int startup_one_gpu(const struct dist *d, struct err *e)
{
	static struct gpu seen[GPUS_MOST];
	int n = d->machine_ranks > 1 ? at_cuda_devices() : 1;

	if (n < 2)
		return 0;
	if (!gpus_visible(seen))
		return err_set(
		    e,
		    "each of the %d ranks on this machine sees %d GPUs, and NVML, which would tell them "
		    "apart, is not found: let the launcher show each rank one GPU (srun "
		    "--gpus-per-task=1), or set CUDA_VISIBLE_DEVICES for each",
		    d->machine_ranks, n);
	return err_set(e, "CUDA was started (perhaps by MPI) before each rank had its GPU: "
			  "let the launcher choose (srun --gpus-per-task=1)");
}

int startup_close(struct dist *d, int ret, const struct err *e)
{
	bool stopped = ret < 0 && dist_stops(d);

	if (ret < 0 && d->rank == 0)
		fprintf(stderr, "contraflow: %s\n", e->msg);
	if (stop_asked())
		stop_close(); /* a launcher ends those that are not the first to leave */
	dist_close(d);
	return stopped ? STARTUP_STOPPED : ret ? STARTUP_FAILED : 0;
}
