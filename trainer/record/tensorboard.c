#include "trainer/record/tensorboard.h"
#include "base/io.h"
#include "base/image.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 30

struct tensorboard {
	struct io_records *file;
	struct text kept; /* records that are not written yet */
	struct err bad;   /* an image that cannot be shown; empty: none */
};

uint32_t tb_crc32c(const void *data, size_t n)
{
	static uint32_t table[256];
	const uint8_t *p = data;
	uint32_t c = 0xffffffffu;

	if (!table[1])
		for (uint32_t i = 0; i < 256; i++) {
			uint32_t t = i;
			for (int k = 0; k < 8; k++)
				t = t >> 1 ^ (t & 1 ? 0x82f63b78u : 0);
			table[i] = t;
		}
	while (n--)
		c = c >> 8 ^ table[(c ^ *p++) & 0xff];
	return ~c;
}

/* ---- Protobuf: tag = field << 3 | wire type (0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes)
 * --------------- */

static void varint(struct text *t, uint64_t v)
{
	for (; v > 0x7f; v >>= 7)
		text_add_bytes(t, &(uint8_t) { (uint8_t)(v | 0x80) }, 1);
	text_add_bytes(t, &(uint8_t) { (uint8_t)v }, 1);
}

static void put_int(struct text *t, int field, int64_t v)
{
	varint(t, (uint64_t)field << 3);
	varint(t, (uint64_t)v);
}

static void put_bytes(struct text *t, int field, const void *p, size_t n)
{
	varint(t, (uint64_t)field << 3 | 2);
	varint(t, n);
	text_add_bytes(t, p, n);
}

static void put_double(struct text *t, int field, double v)
{
	varint(t, (uint64_t)field << 3 | 1);
	text_add_bytes(t, &v, sizeof v);
}

static void put_float(struct text *t, int field, float v)
{
	varint(t, (uint64_t)field << 3 | 5);
	text_add_bytes(t, &v, sizeof v);
}

static void put_doubles(struct text *t, int field, const double *v, int n)
{
	put_bytes(t, field, v, (size_t)n * sizeof *v);
}

/* ---- Records --------------------------------------------------------------------------------- */

static uint32_t masked(const void *p, size_t n)
{
	uint32_t c = tb_crc32c(p, n);
	return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void record(struct tensorboard *tb, const struct text *event)
{
	uint64_t n = event->n;
	uint32_t head = masked(&n, sizeof n), body = masked(event->s, event->n);

	text_add_bytes(&tb->kept, &n, sizeof n);
	text_add_bytes(&tb->kept, &head, sizeof head);
	text_add_bytes(&tb->kept, event->s, event->n);
	text_add_bytes(&tb->kept, &body, sizeof body);
}

static double wall_time(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, ... } } } around an encoded value. */
static void summary(struct tensorboard *tb, int64_t step, const struct text *value)
{
	struct text s = { 0 }, ev = { 0 };

	put_bytes(&s, 1, value->s, value->n);
	put_double(&ev, 1, wall_time());
	put_int(&ev, 2, step);
	put_bytes(&ev, 5, s.s, s.n);
	record(tb, &ev);
	text_free(&s);
	text_free(&ev);
}

/* Event { session_log = 7 { status = 1: START = 1 } }: readers drop what earlier files hold from this step
 * on. */
static void restart(struct tensorboard *tb, int64_t step)
{
	struct text log = { 0 }, ev = { 0 };

	put_int(&log, 1, 1);
	put_double(&ev, 1, wall_time());
	put_int(&ev, 2, step);
	put_bytes(&ev, 7, log.s, log.n);
	record(tb, &ev);
	text_free(&log);
	text_free(&ev);
}

int tb_open(struct tensorboard **out, const char *dir, int64_t step, struct err *e)
{
	static const char version[] = "brain.Event:2";
	struct tensorboard *tb = mem_zero(1, sizeof *tb);
	struct text ev = { 0 };
	char host[128] = "host", *path = NULL;
	int serial = 0;

	gethostname(host, sizeof host - 1);
	do { /* a run resumed within the second must not write into the file before */
		free(path);
		path = mem_printf("%s/events.out.tfevents.%010ld.%s.%ld.%d", dir, (long)time(NULL), host,
				  (long)getpid(), serial++);
		tb->file = io_records_open(path, true);
	} while (!tb->file && errno == EEXIST);
	if (!tb->file)
		err_set(e, "cannot write %s: %s", path, strerror(errno));
	free(path);
	if (!tb->file) {
		tb_close(tb);
		return -1;
	}
	put_double(&ev, 1, wall_time());
	put_bytes(&ev, 3, version, strlen(version));
	record(tb, &ev);
	text_free(&ev);
	restart(tb, step + 1);
	*out = tb;
	return 0;
}

void tb_close(struct tensorboard *tb)
{
	if (!tb)
		return;
	io_records_close(tb->file);
	text_free(&tb->kept);
	free(tb);
}

int tb_flush(struct tensorboard *tb, struct err *e)
{
	if (*tb->bad.msg)
		return err_set(e, "%s", tb->bad.msg);
	if (io_records_add(tb->file, tb->kept.s, tb->kept.n))
		return err_set(e, "cannot write %s: %s", io_records_path(tb->file), strerror(errno));
	tb->kept.n = 0;
	return 0;
}

/* Value.metadata = 9: SummaryMetadata { plugin_data = 1 { plugin_name = 1 }, summary_description = 3 }. */
static void put_about(struct text *value, const char *plugin, const char *about)
{
	struct text p = { 0 }, m = { 0 };

	put_bytes(&p, 1, plugin, strlen(plugin));
	put_bytes(&m, 1, p.s, p.n);
	put_bytes(&m, 3, about, strlen(about));
	put_bytes(value, 9, m.s, m.n);
	text_free(&p);
	text_free(&m);
}

void tb_scalar(struct tensorboard *tb, const char *tag, int64_t step, double v, const char *about)
{
	struct text t = { 0 };

	put_bytes(&t, 1, tag, strlen(tag));
	put_float(&t, 2, (float)v);
	if (about)
		put_about(&t, "scalars", about);
	summary(tb, step, &t);
	text_free(&t);
}

void tb_image(struct tensorboard *tb, const char *tag, int64_t step, int w, int h, const uint8_t *rgb)
{
	struct text t = { 0 }, im = { 0 };
	struct err bad;
	uint8_t *png;
	size_t n;

	if (image_png(&png, &n, w, h, rgb, &bad)) {
		if (!*tb->bad.msg)
			tb->bad = bad;
		return;
	}
	put_int(&im, 1, h);
	put_int(&im, 2, w);
	put_int(&im, 3, 3);
	put_bytes(&im, 4, png, n);
	put_bytes(&t, 1, tag, strlen(tag));
	put_bytes(&t, 4, im.s, im.n);
	summary(tb, step, &t);
	free(png);
	text_free(&t);
	text_free(&im);
}

void tb_histogram(struct tensorboard *tb, const char *tag, int64_t step, const double *v, int64_t n)
{
	double lo = INFINITY, hi = -INFINITY, sum = 0, squares = 0, count = 0, greatest, limit[BUCKETS],
	       bucket[BUCKETS] = { 0 };
	struct text t = { 0 }, h = { 0 };

	for (int64_t i = 0; i < n; i++)
		if (isfinite(v[i])) {
			lo = fmin(lo, v[i]);
			hi = fmax(hi, v[i]);
			sum += v[i];
			squares += v[i] * v[i];
			count++;
		}
	if (!count)
		return;
	greatest = hi;
	/* Divided first: a difference may overflow.  Equal values get buckets too. */
	double width = hi / BUCKETS - lo / BUCKETS;
	if (!(width > 0)) {
		width = 1e-6 * fmax(1, fabs(lo));
		hi = lo + width * BUCKETS;
	}
	for (int k = 1; k < BUCKETS; k++)
		limit[k - 1] = (lo / BUCKETS) * (BUCKETS - k) + (hi / BUCKETS) * k;
	limit[BUCKETS - 1] = hi;
	for (int64_t i = 0; i < n; i++)
		if (isfinite(v[i]))
			bucket[(int)fmin((v[i] / 2 - lo / 2) / (width / 2), BUCKETS - 1)]++;
	put_double(&h, 1, lo);
	put_double(&h, 2, greatest);
	put_double(&h, 3, count);
	put_double(&h, 4, sum);
	put_double(&h, 5, squares);
	put_doubles(&h, 6, limit, BUCKETS);
	put_doubles(&h, 7, bucket, BUCKETS);
	put_bytes(&t, 1, tag, strlen(tag));
	put_bytes(&t, 5, h.s, h.n);
	summary(tb, step, &t);
	text_free(&t);
	text_free(&h);
}
