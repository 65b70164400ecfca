/* cmd_doctor.c -- contraflow doctor: this machine, and what a configuration needs of it, with remedies. */
#include "commands/advice/examine.h"
#include "aten/memory.h"
#include "base/file.h"
#include "base/machine/cores.h"
#include "base/machine/gpus.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/options.h"
#include "dist/startup.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#define FEW_FILES 1024       /* that a process may have open */
#define SMALL_SHM (64 << 20) /* bytes: Docker's default, too few for several ranks */

/* ---- This machine -------------------------------------------------------------------------------- */

/* The kernel of SD3.5 Medium's attention at 512 x 512. */
static void examine_attention(struct examination *x)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t q = at_zeros(DIMS(1, 24, 1229, 64), AT_BF16, AT_CUDA);
	const char *kernel = at_sdpa_kernel(q, q, q);

	if (at_sdpa_is_best(AT_CUDA, kernel))
		examined(x, EXAMINED_OK, "attention", "by '%s', the fastest here", kernel);
	else
		examined(x, EXAMINED_WARN, "attention",
			 "by '%s', at about half the speed of cuDNN's: an older cuDNN in LD_LIBRARY_PATH "
			 "takes the "
			 "place of libtorch's own; unset it",
			 kernel);
	at_end(sc);
}

/* 2.27.5 of 22705; of the library that this process has loaded. */
static void examine_nccl(struct examination *x)
{
	int (*ask)(int *) = NULL;
	int v = 0;

	*(void **)&ask = dlsym(RTLD_DEFAULT, "ncclGetVersion");
	if (ask && !ask(&v))
		examined(x, EXAMINED_OK, "NCCL", "%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
	else
		examined(x, EXAMINED_WARN, "NCCL", "not there: jobs of several GPUs need it");
}

static void examine_gpus(struct examination *x)
{
	static struct gpu seen[GPUS_MOST];
	int visible = gpus_visible(seen);

	if (!at_cuda_built()) {
		examined(x, visible ? EXAMINED_WARN : EXAMINED_OK, "GPU", "%s",
			 visible ? "one is here, and this build has no CUDA: meson setup -Dcuda=enabled"
				 : "none, and this build has no CUDA: runs on the CPU");
		return;
	}
	if (!at_cuda_devices()) {
		examined(x, visible ? EXAMINED_FAIL : EXAMINED_WARN, "GPU", "%s",
			 visible ? "CUDA does not start: is the driver too old for it? (nvidia-smi)"
				 : "none is visible (nvidia-smi, CUDA_VISIBLE_DEVICES): runs on the CPU");
		return;
	}
	examined(x, EXAMINED_OK, "GPU", "%d: %s", at_cuda_devices(), at_device_text(AT_CUDA));
	examine_attention(x);
	examine_nccl(x);
}

static void examine_launch(struct examination *x, const struct dist *d)
{
	const char *tasks = getenv("SLURM_NTASKS"), *step = getenv("SLURM_STEP_ID");
	char mpi[256];

	dist_mpi_version(mpi, sizeof mpi);
	if (step && tasks && atoi(tasks) > 1 && d->ranks == 1)
		examined(x, EXAMINED_FAIL, "MPI",
			 "%s: srun started %s processes that do not find each other: srun --mpi=pmix", mpi,
			 tasks);
	else
		examined(x, EXAMINED_OK, "MPI", "%s: %d rank%s, %d on this machine%s", mpi, d->ranks,
			 d->ranks == 1 ? "" : "s", d->machine_ranks,
			 getenv("PMIX_RANK") ? ", started over PMIx" : "");
}

static void examine_cores(struct examination *x, const struct dist *d)
{
	struct cores c;
	int all;

	cores_read(&c);
	all = cores_count(&c);
	if (d->held && d->held < d->held_of / d->machine_ranks)
		examined(x, EXAMINED_WARN, "cores",
			 "the launcher binds this rank to %d of %d: mpirun --bind-to none, or srun "
			 "--cpu-bind=none",
			 d->held, d->held_of);
	else
		examined(x, EXAMINED_OK, "cores", "%d may be used, %d by a rank", all, d->cores);
	for (int i = 0; i < c.quotas; i++)
		if (c.quota[i].cpus < all)
			examined(
			    x, EXAMINED_WARN, "cores",
			    "a control group leaves %.1f of %d: raise its quota (docker --cpus, Slurm -c)",
			    c.quota[i].cpus, all);
}

static void examine_limits(struct examination *x)
{
	struct rlimit files;
	struct at_memory m;
	struct statvfs fs;
	char size[32];

	at_memory_read(AT_CPU, &m);
	examined(x, EXAMINED_OK, "memory", "%s can be had", text_size(size, (double)m.left));
	if (!statvfs("/dev/shm", &fs)) {
		double room = (double)fs.f_bavail * (double)fs.f_frsize;
		bool few = room <= SMALL_SHM;

		examined(x, few ? EXAMINED_WARN : EXAMINED_OK, "/dev/shm", "%s free%s", text_size(size, room),
			 few ? ": several ranks of a machine talk through it: docker --shm-size=1g" : "");
	}
	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur != RLIM_INFINITY)
		examined(x, files.rlim_cur < FEW_FILES ? EXAMINED_WARN : EXAMINED_OK, "open files",
			 "%llu at a time%s", (unsigned long long)files.rlim_cur,
			 files.rlim_cur < FEW_FILES ? ": ulimit -n 4096" : "");
}

static void examine_machine(struct examination *x, const struct dist *d)
{
	examined(x, EXAMINED_OK, "program", "contraflow %s, libtorch %s", version(), at_version());
	examine_gpus(x);
	examine_launch(x, d);
	examine_cores(x, d);
	examine_limits(x);
}

/* ---- A configuration ------------------------------------------------------------------------------ */

static void examine_configuration(struct examination *x, const char *path, const struct option_list *set)
{
	struct experiment c, stage;
	struct err e;

	if (experiment_read(&c, path, set->v, set->n, &e)) {
		examined(x, EXAMINED_FAIL, "configuration", "%s", e.msg);
		return;
	}
	examined(x, EXAMINED_OK, "configuration", "%s", path);
	if (!examine_files(x, &c))
		examine_room(x, &c);
	for (int i = 0; i < experiment_stages(&c); i++) {
		if (experiment_stage(&stage, &c, i, &e)) {
			examined(x, EXAMINED_FAIL, "stage", "%s", e.msg);
			continue;
		}
		examine_stage(x, &stage, c.n_stages ? c.stage[i] : NULL);
		experiment_release(&stage);
	}
	experiment_release(&c);
}

static int examine_all(struct dist *d, const char *config, const struct option_list *set, struct err *e)
{
	struct examination x = { 0 };

	if (d->rank == 0)
		examine_machine(&x, d);
	if (d->rank == 0 && config)
		examine_configuration(&x, config, set);
	int ret = x.failures ? err_set(e, "doctor: %d of these lines say FAIL", x.failures) : 0;
	return dist_agree(d, ret, e);
}

static int run(int argc, char **argv, struct err *e)
{
	struct option_list set = { .n = 0 };
	const char *args[1] = { NULL };
	const struct option_spec spec[] = {
		{ "set", 'm', &set, "KEY=VALUE", "override a key; may be repeated" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_doctor, spec, argc, argv, args, 1, &n, e);

	if (ret)
		return ret;
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	return startup_close(&d, examine_all(&d, n ? args[0] : NULL, &set, e), e);
}

const struct command cmd_doctor = { "doctor", "[CONFIG] [--set KEY=VALUE ...]",
				    "what this machine has, and whether it is what a configuration needs",
				    run };
