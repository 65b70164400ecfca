#include "trainer/reward_ranks.h"
#include "base/alive.h"
#include "base/log.h"
#include "base/mem.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int reward_ranks_split(struct dist *d, int64_t n, const char *what, struct err *e)
{
	if (n < 1)
		return 0;
	if (!d->mpi)
		return err_set(e, "%s is %lld, but there is only one process: start several with mpirun -n N",
			       what, (long long)n);
	if (n >= d->ranks)
		return err_set(e, "%s is %lld of %d ranks, which leaves none to train: start more ranks",
			       what, (long long)n, d->ranks);
	dist_split(d, (int)n);
	return 0;
}

/* ---- messages ---- */

static void post(void *ctx, int to, const void *data, size_t size)
{
	dist_post(ctx, to, memcpy(mem_alloc(size), data, size), size);
}

static void send_to_server(void *ctx, int server, const void *data, size_t size)
{
	struct dist *d = ctx;

	dist_send(d, d->first_server + server, data, size);
}

static bool receive(void *ctx, int *from, char **data, size_t *size)
{
	return dist_receive(ctx, from, data, size);
}

static const char *server_name(void *ctx, int server)
{
	static char name[64];

	snprintf(name, sizeof name, "reward rank %d", ((struct dist *)ctx)->first_server + server);
	return name;
}

static struct remote_link make_link(struct dist *d)
{
	return (struct remote_link) { .ctx = d,
				      .send = d->serves ? post : send_to_server,
				      .receive = receive,
				      .servers = d->servers,
				      .name = server_name };
}

/* ---- a reward rank ---- */

struct served {
	const struct dist *d;
	const struct remote_sets *sets;
	bool on_cpu;
};

static int open_set(void *ctx, struct mixture **m, int set, struct err *e)
{
	const struct served *s = ctx;

	if (!s->on_cpu && startup_one_gpu(s->d, e))
		return -1;
	return s->sets->open(s->sets->ctx, m, set, e);
}

void reward_ranks_serve(struct dist *d, const struct remote_sets *sets, const char *device)
{
	struct served served = { d, sets, !strcmp(device, "cpu") };
	struct remote_link link = make_link(d);
	struct remote_server *s = remote_server_new(&link, &(struct remote_sets) { &served, open_set });
	bool idle = false;

	at_panic_context("reward rank %d", d->first_server + d->rank);
	if (served.on_cpu) /* a GPU is for those judges that find one here */
		at_device_set_auto(AT_CPU);
	while (remote_server_step(s, &idle)) {
		if (!idle || !remote_server_scores(s)) /* or a judge hangs */
			alive_mark("scoring for the other ranks");
		if (idle) /* as often as a score may be waited for; its threads need the core */
			clock_sleep(200e-6);
	}
	remote_server_free(s);
}

/* ---- the others ---- */

int reward_ranks_open(struct mixture **m, struct dist *d, const struct conf_node *root, int set,
		      struct err *e)
{
	struct remote_link link = make_link(d);

	return d->servers ? remote_open(m, root, &link, set, d->rank == 0, d->rank, e)
			  : mixture_open(m, root, 1, e);
}

void reward_ranks_agree(struct dist *d, struct mixture *m)
{
	int n = mixture_count(m);
	char *group = mem_zero((size_t)n, 1);

	for (int k = 0; k < n; k++)
		group[k] = mixture_at(m, k)->group;
	if (d->servers)
		dist_broadcast(d, group, (size_t)n, 0);
	for (int k = 0; k < n; k++)
		mixture_set_group(m, k, group[k]);
	free(group);
}

void reward_ranks_dismiss(struct dist *d)
{
	struct remote_link link = make_link(d);

	if (d->servers && d->rank == 0)
		remote_dismiss(&link);
}

const char *reward_ranks_name(const struct dist *d, char *buffer, size_t size)
{
	int last = d->first_server + d->servers - 1;

	if (d->servers == 1)
		snprintf(buffer, size, "rank %d", last);
	else
		snprintf(buffer, size, "ranks %d to %d", d->first_server, last);
	return buffer;
}
