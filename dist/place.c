/* place.c -- what of its machine a rank works on. */
#include "base/machine/cores.h"
#include "base/mem.h"
#include "dist/comm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dist_place_cores(struct dist *d)
{
	struct cores *all = mem_zero((size_t)d->machine_ranks, sizeof *all), *mine = &all[d->machine_rank];

	cores_read(mine);
	if (d->comm)
		dist_come(d, MPI_COMM_WORLD, "places of the ranks");
	if (d->machine_ranks > 1)
		MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, all, sizeof *all, MPI_BYTE, d->comm->machine);
	d->cores = cores_share(all, d->machine_ranks, d->machine_rank);
	d->held_of = cores_of_launcher();
	d->held = cores_count(mine) < d->held_of ? cores_count(mine) : 0;
	free(all);
}

/* The place that the launcher gave this rank among several on its machine; -1: it does not say. */
static int launcher_place(void)
{
	/* "8", "8(x2),4": tasks a machine */
	static const char *const said[][2] = { { "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE" },
					       { "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE" } };

	for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
		const char *rank = getenv(said[i][0]), *ranks = getenv(said[i][1]);

		if (rank && ranks)
			return atoi(ranks) > 1 ? atoi(rank) : -1;
	}
	return -1;
}

/* Leaves the GPU of a place, and puts what is known of it into id[GPU_NAME]. */
static void choose(int place, char *id)
{
	static struct gpu seen[GPUS_MOST];
	int n = gpus_visible(seen);
	const struct gpu *mine = n ? &seen[place % n] : NULL;

	*id = '\0';
	if (n > 1)
		setenv("CUDA_VISIBLE_DEVICES", mine->name, 1);
	/* without an id, one that this rank did not choose itself may be any */
	if (n)
		snprintf(id, GPU_NAME, "%s", *mine->id || n == 1 ? mine->id : mine->name);
}

void dist_place_gpu_early(void)
{
	int place = launcher_place();
	char id[GPU_NAME];

	if (place >= 0)
		choose(place, id);
}

void dist_place_gpu(struct dist *d)
{
	char id[GPU_NAME];

	if (d->comm)
		dist_come(d, MPI_COMM_WORLD, "places of the ranks");
	if (d->machine_ranks == 1)
		return;
	choose(d->machine_rank, id);
	free(d->comm->gpu);
	d->comm->gpu = mem_zero((size_t)d->machine_ranks, sizeof *d->comm->gpu);
	MPI_Allgather(id, GPU_NAME, MPI_CHAR, d->comm->gpu, GPU_NAME, MPI_CHAR, d->comm->machine);
}

/* Servers are the job's last ranks, and so the last of each machine: its first ranks are the others. */
int dist_gpus(const struct dist *d)
{
	int n = 0;

	if (!d->comm || !d->comm->gpu)
		return d->local_ranks;
	for (int i = 0; i < d->local_ranks; i++) {
		const char *id = d->comm->gpu[i];
		int k = 0;

		while (k < i && strcmp(d->comm->gpu[k], id))
			k++;
		n += k == i || !*id;
	}
	return n;
}
