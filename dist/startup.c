#include "dist/startup.h"
#include "base/machine/gpus.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int startup_open(struct dist *d, enum startup_ranks ranks, struct err *e)
{
	dist_alone(d);
	if (ranks == STARTUP_RANKS) {
		if (at_cuda_built())
			dist_place_gpu_early();
		if (dist_open(d, e))
			return -1;
		log_rank(d->rank, d->ranks);
		if (at_cuda_built())
			dist_place_gpu(d);
	}
	if (!getenv("OMP_NUM_THREADS"))
		at_set_threads(d->cores);
	return 0;
}

void startup_threads(const struct dist *d, int64_t threads)
{
	bool speaks = d->held && d->rank == 0 && !d->serves;
	int whole = d->held_of / d->machine_ranks;

	if (speaks && threads > d->held)
		log_warn("%lld threads, and the launcher holds this process to %d of %d CPUs%s",
			 (long long)threads, d->held, d->held_of, d->mpi ? " (mpirun --bind-to none)" : "");
	else if (speaks && !threads && d->mpi && d->cores < whole)
		log_info("the launcher holds this rank to %d of %d CPUs: %d thread%s (mpirun --bind-to none: "
			 "%d)",
			 d->held, d->held_of, d->cores, d->cores > 1 ? "s" : "", whole);
	at_set_threads(threads > 0 ? (int)threads : d->cores);
}

/* A GPU that nobody uses is most often a mistake. */
static void say_unused(const char *name)
{
	static struct gpu seen[GPUS_MOST];

	if (!gpus_visible(seen))
		return;
	if (!strcmp(name, "cpu") && at_cuda_built())
		log_info("on the CPU, and a GPU is visible: the device is 'cpu'");
	else if (strcmp(name, "cpu"))
		log_warn("on the CPU, and a GPU is visible: %s",
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
			       "the device '%s' is a GPU for some ranks and for others there is none: "
			       "say cpu, or start no ranks where there is no GPU",
			       name);
	at_device_auto(*dev);
	if (*dev == AT_CPU) {
		if (d->rank == 0)
			say_unused(name);
		return 0;
	}
	if (dist_gpus(d) < d->local_ranks)
		return err_set(e, "%d ranks on this machine and %d GPUs: start one rank a GPU",
			       d->local_ranks, dist_gpus(d));
	if (d->machine_ranks > 1 && at_cuda_devices() > 1)
		return err_set(e, "CUDA was started before each rank had its GPU, by MPI perhaps: "
				  "let the launcher choose (srun --gpus-per-task=1)");
	return 0;
}

int startup_close(struct dist *d, int ret, const struct err *e)
{
	if (ret < 0 && d->rank == 0)
		fprintf(stderr, "contraflow: %s\n", e->msg);
	dist_close(d);
	return ret ? STARTUP_FAILED : 0;
}
