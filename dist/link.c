/*
 * link.c -- messages between ranks of a job that dist_split has divided.
 *
 * A message is its length and then its bytes, in pieces.  Whoever waits sleeps in short steps: its core has
 * something better to do.
 */
#include "base/alive.h"
#include "base/log.h"
#include "base/mem.h"
#include "dist/comm.h"
#include <stdlib.h>

enum { TAG_SIZE = 1, TAG_DATA };

struct posted {
	struct posted *next;
	char *data; /* NULL: the caller's */
	int64_t size;
	int requests;
	MPI_Request request[];
};

static struct posted *begin(struct dist *d, int to, const char *data, size_t size)
{
	size_t pieces = (size + DIST_PIECE - 1) / DIST_PIECE;
	struct posted *p = mem_zero(1, sizeof *p + (pieces + 1) * sizeof *p->request);

	p->size = (int64_t)size;
	MPI_Isend(&p->size, 1, MPI_INT64_T, to, TAG_SIZE, d->comm->link, &p->request[p->requests++]);
	for (size_t at = 0; at < size; at += DIST_PIECE) {
		int n = (int)(size - at < DIST_PIECE ? size - at : DIST_PIECE);
		MPI_Isend(data + at, n, MPI_BYTE, to, TAG_DATA, d->comm->link, &p->request[p->requests++]);
	}
	return p;
}

/* Frees what has been taken. */
static void reap(struct dist *d)
{
	for (struct posted **at = &d->comm->posts; *at;) {
		struct posted *p = *at;
		int done;

		MPI_Testall(p->requests, p->request, &done, MPI_STATUSES_IGNORE);
		if (!done) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		free(p->data);
		free(p);
	}
}

static void drain(struct dist *d)
{
	for (reap(d); d->comm->posts; reap(d))
		clock_sleep(50e-6);
}

void dist_post(struct dist *d, int to, char *data, size_t size)
{
	struct posted *p = begin(d, to, data, size), **at = &d->comm->posts;

	p->data = data;
	while (*at)
		at = &(*at)->next;
	*at = p;
}

void dist_send(struct dist *d, int to, const void *data, size_t size)
{
	struct posted *p = begin(d, to, data, size);

	alive_mark("sending to a reward rank");
	p->next = d->comm->posts;
	d->comm->posts = p;
	drain(d);
}

bool dist_receive(struct dist *d, int *from, char **data, size_t *size)
{
	MPI_Status status;
	int64_t left;
	int there;

	reap(d);
	MPI_Iprobe(MPI_ANY_SOURCE, TAG_SIZE, d->comm->link, &there, &status);
	if (!there)
		return false;
	*from = status.MPI_SOURCE;
	MPI_Recv(&left, 1, MPI_INT64_T, *from, TAG_SIZE, d->comm->link, MPI_STATUS_IGNORE);
	*size = (size_t)left;
	*data = mem_alloc(*size + 1);
	(*data)[*size] = '\0';
	for (char *p = *data; left > 0;) {
		int n = (int)(left < DIST_PIECE ? left : DIST_PIECE);

		MPI_Recv(p, n, MPI_BYTE, *from, TAG_DATA, d->comm->link, MPI_STATUS_IGNORE);
		p += n;
		left -= n;
	}
	return true;
}

void dist_link_close(struct dist *d)
{
	if (d->comm->link == MPI_COMM_NULL)
		return;
	drain(d);
	MPI_Comm_free(&d->comm->link);
	MPI_Comm_free(&d->comm->group);
}
