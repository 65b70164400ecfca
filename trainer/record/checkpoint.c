/*
 * checkpoint.c -- all the state of a run, whole or not at all.
 *
 * checkpoints/step-00000123/: lora/ (the averaged policy in PEFT layout), state.safetensors.zst (theta, old,
 * ema, Adam's moments) and state.json (counters, seed, hashes).  checkpoints.h says how it gets its name.
 */
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "trainer/record/checkpoint.h"
#include "trainer/record/checkpoints.h"
#include <inttypes.h>
#include <stdlib.h>

#define ZSTD_LEVEL 3

static char *hex(uint64_t v)
{
	return mem_printf("%016" PRIx64, v);
}

uint64_t checkpoint_shape(const struct lora *l)
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
	char *base = hex(t->hashes.transformer), *shape = hex(checkpoint_shape(&t->policies.theta)),
	     *data = hex(data_hash);
	json_t *before = eval_json(&t->before);
	json_t *j = json_pack(
	    "{s:i, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:o}",
	    "format", CHECKPOINT_FORMAT, "step", (json_int_t)t->at.step, "stage", (json_int_t)t->at.stage,
	    "stage_step", (json_int_t)t->at.stage_step, "stage_seconds", json_number(t->at.stage_seconds),
	    "held_out", json_number(t->at.held_out), "epoch", (json_int_t)t->at.epoch, "images",
	    (json_int_t)t->at.images, "skipped", (json_int_t)t->at.skipped, "unavailable",
	    (json_int_t)t->at.unavailable, "optimizer_step", (json_int_t)t->optimizer.step, "seed",
	    (json_int_t)t->x->run.seed, "train_seconds", json_number(t->at.train_seconds), "cpu_seconds",
	    json_number(t->at.cpu_seconds), "base_model", base, "adapter", shape, "data", data, "before",
	    before);
	const struct {
		const char *key;
		int64_t v;
	} more[] = { { "part", t->at.part },
		     { "evaluated", t->at.evaluated },
		     { "drawn", t->at.drawn },
		     { "rows", t->at.rows },
		     { "skipped_in_row", t->at.skipped_in_row },
		     { "empty_in_row", t->at.empty_in_row },
		     { "rollbacks", t->at.rollbacks } };
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		json_object_set_new(j, more[i].key, json_integer(more[i].v));
	json_object_set_new(j, "forwards", json_number(t->at.forwards));
	json_object_set_new(j, "batches",
			    json_pack("{s:I, s:I, s:I, s:I, s:o}", "rollout", (json_int_t)t->batches.rollout,
				      "eval", (json_int_t)t->batches.eval, "micro",
				      (json_int_t)t->batches.micro, "blocks", (json_int_t)t->batches.blocks,
				      "bytes", json_number(t->batches.bytes)));
	json_t *dealt = json_object();
	for (int k = 0; k < t->train.sets; k++)
		json_object_set_new(dealt, t->train.set[k].name,
				    json_pack("{s:I, s:o}", "groups", (json_int_t)t->at.dealt[k], "weight",
					      json_number(t->train.set[k].weight)));
	json_object_set_new(j, "dealt", dealt);
	json_object_set_new(j, "alarm", alarm_json(&t->alarm));
	json_object_set(j, "inputs", t->inputs ? t->inputs : json_null());
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

static int write_checkpoint(const struct trainer *t, struct err *e)
{
	char *all = file_join(t->dir, "checkpoints"), *temp;
	int ret = checkpoints_begin(all, t->at.step, &temp, e);

	if (!ret) {
		ret = write_state(t, temp, e) ||
			      checkpoints_put(all, t->at.step, temp, t->x->checkpoint.keep, e)
			  ? -1
			  : 0;
		struct err ignored;
		if (ret)
			file_remove_tree(temp, &ignored);
		free(temp);
	}
	free(all);
	return ret ? err_in(e, "checkpoint") : 0;
}

void checkpoint_advise(const struct trainer *t)
{
	alive_advice("--resume goes on from step %lld of %s", (long long)t->at.step, t->dir);
}

int checkpoint_save(struct trainer *t, struct err *e)
{
	alive_mark("writing a checkpoint");
	if (dist_agree(t->dist, t->dist->rank == 0 ? write_checkpoint(t, e) : 0, e))
		return -1;
	checkpoint_advise(t);
	return 0;
}
