/* place.c -- what of its machine a rank works on. */
#include "base/cores.h"
#include "base/mem.h"
#include "dist/comm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

void dist_place_cores(struct dist *d)
{
	struct cores *all = mem_zero((size_t)d->machine_ranks, sizeof *all), *mine = &all[d->machine_rank];

	cores_read(mine);
	if (d->machine_ranks > 1)
		MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, all, sizeof *all, MPI_BYTE, d->comm->machine);
	d->cores = cores_share(all, d->machine_ranks, d->machine_rank);
	d->held = cores_count(mine) < get_nprocs() ? cores_count(mine) : 0;
	free(all);
}

void dist_place_gpu(struct dist *d)
{
	static struct gpu seen[GPUS_MOST];

	if (d->machine_ranks == 1)
		return;
	int n = gpus_visible(seen);
	/* without an id a GPU that the rank did not choose may be any */
	const struct gpu *mine = n ? &seen[d->machine_rank % n] : NULL;
	char id[GPU_NAME] = "";

	if (mine)
		snprintf(id, sizeof id, "%s", *mine->id ? mine->id : n > 1 ? mine->name : "");
	d->gpu_chosen = n > 1;
	if (d->gpu_chosen)
		setenv("CUDA_VISIBLE_DEVICES", mine->name, 1);
	free(d->comm->gpu);
	d->comm->gpu = mem_zero((size_t)d->machine_ranks, sizeof *d->comm->gpu);
	MPI_Allgather(id, GPU_NAME, MPI_CHAR, d->comm->gpu, GPU_NAME, MPI_CHAR, d->comm->machine);
}

/* Servers are the job's last ranks, and so the last of each machine: the others are its first. */
int dist_gpus(const struct dist *d)
{
	int n = 0, first = d->serves ? d->machine_ranks - d->local_ranks : 0;

	if (!d->comm || !d->comm->gpu)
		return d->local_ranks;
	for (int i = 0; i < d->local_ranks; i++) {
		int k = 0;

		while (k < i && strcmp(d->comm->gpu[first + k], d->comm->gpu[first + i]))
			k++;
		n += k == i || !*d->comm->gpu[first + i];
	}
	return n;
}
