#include "trainer/pretrain/pretrain_state.h"
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[PRETRAIN_VECTORS] = { "flat", "ema", "adam.m", "adam.v" };

static char *hash_of(const struct conf_node *tree)
{
	struct text t = { 0 };

	conf_emit(&t, tree);
	char *hex = mem_printf("%016" PRIx64, file_hash(t.s, t.n, 0));
	text_free(&t);
	return hex;
}

int pretrain_state_keep(const struct pretrain_state *s, const char *path, const struct conf_node *tree,
			struct dist *d, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const double count[2] = { s->step, s->loss };
	char *conf = hash_of(tree), *data = NULL;
	const struct st_meta_item meta = { "configuration", conf };
	struct st_item item[PRETRAIN_VECTORS + 1] = { { "at", at_from(count, DIMS(2), AT_F64) } };
	size_t size;
	int ret = 0;

	for (int i = 0; i < PRETRAIN_VECTORS; i++)
		item[i + 1] = (struct st_item) { names[i], s->vector[i] };
	if (d->rank == 0)
		ret = st_write_bytes(&data, &size, item, PRETRAIN_VECTORS + 1, &meta, 1, e) ||
			      file_write(path, data, size, e)
			  ? -1
			  : 0;
	free(data);
	free(conf);
	at_end(sc);
	return dist_agree(d, ret, e);
}

static int take(struct pretrain_state *s, const struct st_file *f, const struct conf_node *tree,
		const char *path, struct err *e)
{
	const char *other = st_meta(f, "configuration");
	char *conf = hash_of(tree);
	bool same = other && !strcmp(conf, other);
	double count[2];
	at_t x;

	free(conf);
	if (!same)
		return err_set(
		    e,
		    "%s was left by another configuration: go on with that one, or remove the file to "
		    "begin anew",
		    path);
	for (int i = 0; i < PRETRAIN_VECTORS; i++) {
		if (st_take(&x, f, names[i], at_shape(s->vector[i]), e))
			return -1;
		at_copy_(s->vector[i], x);
	}
	if (st_take(&x, f, "at", DIMS(2), e))
		return -1;
	at_copy_out(x, count, AT_F64);
	s->step = count[0];
	s->loss = count[1];
	return 0;
}

int pretrain_state_take(struct pretrain_state *s, bool *found, const char *path, const struct conf_node *tree,
			struct dist *d, struct err *e)
{
	size_t size = 0;
	char *data = NULL;
	struct st_file f;
	int there = d->rank == 0 && file_exists(path);

	if (dist_agree(d, there ? file_read(&data, &size, path, e) : 0, e))
		return -1;
	dist_broadcast(d, &there, sizeof there, 0);
	*found = there;
	if (!there)
		return 0;
	dist_broadcast(d, &size, sizeof size, 0);
	if (d->rank)
		data = mem_alloc(size + 1);
	dist_broadcast(d, data, size, 0);
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int ret = st_open_bytes(&f, data, size, path, e);
	if (!ret) {
		ret = take(s, &f, tree, path, e);
		st_close(&f);
	}
	at_end(sc);
	return dist_agree(d, ret, e);
}
