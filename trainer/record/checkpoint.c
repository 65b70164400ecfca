/*
 * checkpoint.c -- all the state of a run, whole or not at all.
 *
 * checkpoints/step-00000123/: lora/ (the averaged policy in PEFT layout), state.safetensors.zst (theta, old,
 * ema, Adam's moments) and state.json (counters, seed, hashes).  Written under a temporary name, synced,
 * renamed; `latest` names the newest complete one.
 */
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "trainer/trainer.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT     1
#define ZSTD_LEVEL 3

static char *hex(uint64_t v)
{
	return mem_printf("%016" PRIx64, v);
}

/* What a checkpoint must agree with: settings that change what the numbers mean. */
static uint64_t lora_shape_hash(const struct lora *l)
{
	struct text t = { 0 };
	uint64_t h;

	for (int i = 0; i < l->n; i++)
		text_printf(&t, "%s %lld %.17g ", lora_module(l, i), (long long)l->pair[i].size.rank,
			    l->pair[i].size.alpha);
	h = file_hash(t.s, t.n, 0);
	text_free(&t);
	return h;
}

static json_t *state_json(const struct trainer *t, uint64_t data_hash)
{
	char *base = hex(t->hashes.transformer), *shape = hex(lora_shape_hash(&t->policies.theta)),
	     *data = hex(data_hash);
	json_t *before = eval_json(&t->before);
	json_t *j = json_pack(
	    "{s:i, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:o}",
	    "format", FORMAT, "step", (json_int_t)t->at.step, "stage", (json_int_t)t->at.stage, "stage_step",
	    (json_int_t)t->at.stage_step, "stage_seconds", json_number(t->at.stage_seconds), "held_out",
	    json_number(t->at.held_out), "epoch", (json_int_t)t->at.epoch, "images", (json_int_t)t->at.images,
	    "skipped", (json_int_t)t->at.skipped, "unavailable", (json_int_t)t->at.unavailable,
	    "optimizer_step", (json_int_t)t->optimizer.step, "seed", (json_int_t)t->x->run.seed,
	    "train_seconds", json_number(t->at.train_seconds), "cpu_seconds", json_number(t->at.cpu_seconds),
	    "base_model", base, "adapter", shape, "data", data, "before", before);
	json_object_set_new(j, "batches",
			    json_pack("{s:I, s:I, s:I, s:I, s:o}", "rollout", (json_int_t)t->batches.rollout,
				      "eval", (json_int_t)t->batches.eval, "micro",
				      (json_int_t)t->batches.micro, "blocks", (json_int_t)t->batches.blocks,
				      "bytes", json_number(t->batches.bytes)));
	free(base);
	free(shape);
	free(data);
	return j;
}

static int write_state(const struct trainer *t, const char *dir, struct err *e)
{
	const struct policies *p = &t->policies;
	const struct st_item items[] = { { "adam.m", t->optimizer.m_P },
					 { "adam.v", t->optimizer.v_P },
					 { "ema", p->ema.flat },
					 { "old", p->old.flat },
					 { "theta", p->theta.flat } };
	char *lora = file_join(dir, "lora"), *state = file_join(dir, "state.safetensors.zst"),
	     *meta = file_join(dir, "state.json"), *data = NULL;
	size_t size = 0;
	int ret = -1;

	if (file_mkdirs(dir, e) || lora_save(&p->ema, lora, e) ||
	    st_write_bytes(&data, &size, items, 5, NULL, 0, e) ||
	    file_write_zstd(state, data, size, ZSTD_LEVEL, e))
		goto out;
	json_t *j = state_json(t, file_hash(data, size, 0));
	ret = json_write(meta, j, e);
	json_decref(j);
	if (!ret)
		ret = file_sync_tree(dir, e);
out:
	free(lora);
	free(state);
	free(meta);
	free(data);
	return ret;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The complete checkpoints of a run, oldest first. */
static char **list(const char *dir, int *n)
{
	DIR *d = opendir(dir);
	char **names = NULL;
	int cap = 0;

	*n = 0;
	for (struct dirent *x; d && (x = readdir(d));)
		if (text_starts(x->d_name, "step-") && !strchr(x->d_name, '.'))
			MEM_PUSH(names, *n, cap) = mem_str(x->d_name);
	if (d)
		closedir(d);
	if (*n)
		qsort(names, (size_t)*n, sizeof *names, by_name);
	return names;
}

static void list_free(char **names, int n)
{
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

static int write_checkpoint(const struct trainer *t, struct err *e)
{
	char *all = file_join(t->dir, "checkpoints"),
	     *name = mem_printf("step-%08lld", (long long)t->at.step);
	char *final = file_join(all, name), *temp = mem_printf("%s.tmp", final),
	     *latest = file_join(all, "latest");
	int ret = -1, n;

	if (file_mkdirs(all, e) || file_remove_tree(temp, e) || write_state(t, temp, e) ||
	    file_remove_tree(final, e) || file_rename_synced(temp, final, e) ||
	    file_write(latest, name, strlen(name), e))
		goto out;
	ret = 0;
	char **names = list(all, &n);
	for (int i = 0; i < n - t->x->checkpoint.keep && !ret; i++) {
		char *old = file_join(all, names[i]);
		ret = file_remove_tree(old, e);
		free(old);
	}
	list_free(names, n);
out:
	if (ret) {
		struct err ignored;
		file_remove_tree(temp, &ignored);
		err_in(e, "checkpoint");
	}
	free(all);
	free(name);
	free(final);
	free(temp);
	free(latest);
	return ret;
}

static void advise(const struct trainer *t)
{
	alive_advice("--resume goes on from step %lld of %s", (long long)t->at.step, t->dir);
}

int checkpoint_save(struct trainer *t, struct err *e)
{
	alive_mark("writing a checkpoint");
	if (dist_agree(t->dist, t->dist->rank == 0 ? write_checkpoint(t, e) : 0, e))
		return -1;
	advise(t);
	return 0;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static int take_into(at_t dst, const struct st_file *f, const char *name, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t src;
	int ret = st_take(&src, f, name, at_shape(dst), e);

	if (!ret)
		at_copy_(dst, src);
	at_end(s);
	return ret;
}

static int check_hash(const json_t *j, const char *key, uint64_t want, const char *path, const char *what,
		      struct err *e)
{
	const char *stored;
	char *h = hex(want);
	int ret = json_get_str(&stored, j, key, "", path, e);

	if (!ret && strcmp(h, stored))
		ret = err_set(e, "%s: %s", path, what);
	free(h);
	return ret;
}

/* Sizes that `auto` became; those of a stage that has not begun are 0, and what runs keeps its own. */
static int read_batches(struct trainer *t, const json_t *j, const char *path, struct err *e)
{
	const json_t *in = json_object_get(j, "batches");
	struct batches b;

	if (!in)
		return 0;
	if (json_get_int(&b.rollout, in, "rollout", 0, path, e) ||
	    json_get_int(&b.eval, in, "eval", 0, path, e) ||
	    json_get_int(&b.micro, in, "micro", 0, path, e) ||
	    json_get_int(&b.blocks, in, "blocks", 0, path, e) ||
	    json_get_number(&b.bytes, in, "bytes", 0, path, e))
		return -1;
	if (b.rollout > 65536 || b.eval > 65536 || b.micro > 65536 || b.rollout < 0 || b.eval < 0 ||
	    b.micro < 0 || b.blocks < 0 || !b.rollout != !b.micro || !b.rollout != !b.eval)
		return err_set(e, "%s: batches: invalid sizes", path);
	if (b.rollout)
		t->batches = b;
	return 0;
}

static int read_counters(struct trainer *t, const json_t *j, const char *path, struct err *e)
{
	int64_t format, seed, stage;

	if (json_get_int(&format, j, "format", 0, path, e) || json_get_int(&seed, j, "seed", -1, path, e))
		return -1;
	if (format != FORMAT)
		return err_set(e, "%s: format %lld; this program reads format %d", path, (long long)format,
			       FORMAT);
	if (json_get_int(&stage, j, "stage", 0, path, e))
		return -1;
	if (stage < 0 || stage >= experiment_stages(t->file))
		return err_set(e, "%s: belongs to stage %lld, but the configuration has %d", path,
			       (long long)stage + 1, experiment_stages(t->file));
	t->at.stage = stage;
	if (seed != t->x->run.seed)
		return err_set(e, "%s: the run has seed %lld, the configuration %lld", path, (long long)seed,
			       (long long)t->x->run.seed);
	if (check_hash(j, "base_model", t->hashes.transformer, path, "made from another base model", e) ||
	    check_hash(j, "adapter", lora_shape_hash(&t->policies.theta), path,
		       "made with another adapter (rank, alpha or targets)", e))
		return -1;
	return json_get_int(&t->at.step, j, "step", 0, path, e) ||
		       json_get_int(&t->at.stage_step, j, "stage_step", t->at.step, path, e) ||
		       json_get_number(&t->at.stage_seconds, j, "stage_seconds", 0, path, e) ||
		       json_get_number(&t->at.held_out, j, "held_out", 0, path, e) ||
		       json_get_int(&t->at.epoch, j, "epoch", 0, path, e) ||
		       json_get_int(&t->at.images, j, "images", 0, path, e) ||
		       json_get_int(&t->at.skipped, j, "skipped", 0, path, e) ||
		       json_get_int(&t->at.unavailable, j, "unavailable", 0, path, e) ||
		       json_get_int(&t->optimizer.step, j, "optimizer_step", 0, path, e) ||
		       json_get_number(&t->at.train_seconds, j, "train_seconds", 0, path, e) ||
		       json_get_number(&t->at.cpu_seconds, j, "cpu_seconds", 0, path, e) ||
		       read_batches(t, j, path, e)
		   ? -1
		   : eval_from_json(&t->before, json_object_get(j, "before"), path, e);
}

static int read_tensors(struct trainer *t, const json_t *meta, const char *path, struct err *e)
{
	struct policies *p = &t->policies;
	struct st_file f;
	char *data;
	size_t size;
	int ret;

	if (file_read_zstd(&data, &size, path, e))
		return -1;
	if (check_hash(meta, "data", file_hash(data, size, 0), path,
		       "damaged: its checksum is not the one in state.json", e)) {
		free(data);
		return -1;
	}
	if (st_open_bytes(&f, data, size, path, e))
		return -1;
	ret = take_into(p->theta.flat, &f, "theta", e) || take_into(p->old.flat, &f, "old", e) ||
		      take_into(p->ema.flat, &f, "ema", e) || take_into(t->optimizer.m_P, &f, "adam.m", e) ||
		      take_into(t->optimizer.v_P, &f, "adam.v", e)
		  ? -1
		  : 0;
	st_close(&f);
	return ret;
}

static int read_checkpoint(struct trainer *t, const char *dir, struct err *e)
{
	char *state = file_join(dir, "state.safetensors.zst"), *path = file_join(dir, "state.json");
	json_t *j = json_read(path, e);
	int ret = j && !read_counters(t, j, path, e) && !read_tensors(t, j, state, e) ? 0 : -1;

	json_decref(j);
	free(state);
	free(path);
	if (!ret)
		policies_refresh(&t->policies);
	return ret;
}

/* The checkpoint before the newest, for a message. */
static void offer_previous(const char *all, const char *newest, struct err *e)
{
	int n;
	char **names = list(all, &n), *offer = NULL;

	for (int i = 0; i < n; i++)
		if (strcmp(names[i], newest) < 0)
			offer = names[i];
	if (offer) {
		struct err old = *e;
		err_set(e, "%.700s; to continue from the checkpoint before it: echo -n %s > %s/latest",
			old.msg, offer, all);
	}
	list_free(names, n);
}

/* The folder of the newest checkpoint; NULL: there is none (e untouched), or it cannot be told (e set). */
static char *newest(const char *run, bool *found, char **name, struct err *e)
{
	char *all = file_join(run, "checkpoints"), *latest = file_join(all, "latest"), *dir = NULL;
	size_t n;

	*name = NULL;
	*found = file_exists(latest);
	if (*found && !file_read(name, &n, latest, e)) {
		(*name)[strcspn(*name, "\n")] = '\0';
		dir = file_join(all, *name);
	}
	free(all);
	free(latest);
	return dir;
}

int64_t checkpoint_stage(const char *run, struct dist *d)
{
	struct err ignored; /* whoever resumes will say it */
	char *name = NULL, *dir = NULL;
	int64_t stage = 0;
	bool found;

	if (d->rank == 0 && (dir = newest(run, &found, &name, &ignored))) {
		char *path = file_join(dir, "state.json");
		json_t *j = json_read(path, &ignored);

		if (!j || json_get_int(&stage, j, "stage", 0, path, &ignored))
			stage = 0;
		json_decref(j);
		free(path);
	}
	free(name);
	free(dir);
	dist_broadcast(d, &stage, sizeof stage, 0);
	return stage;
}

int checkpoint_resume(struct trainer *t, bool *found, struct err *e)
{
	char *all = file_join(t->dir, "checkpoints"), *name, *dir = newest(t->dir, found, &name, e);
	int ret = *found ? -1 : 0;

	alive_mark("reading a checkpoint");
	if (dir) {
		ret = read_checkpoint(t, dir, e);
		if (ret)
			offer_previous(all, name, e);
	}
	*found = dir && !ret;
	free(name);
	free(dir);
	free(all);
	if (dist_agree(t->dist, ret, e))
		return -1;
	if (*found)
		advise(t);
	return 0;
}
