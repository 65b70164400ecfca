/*
 * checkpoint_read.c -- a checkpoint, read and checked by rank 0 alone, which tells the others all that is in
 * it: they need not see the run directory, and none can find another state, or none.
 */
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "trainer/record/checkpoint.h"
#include "trainer/record/checkpoints.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* As rank 0 read it and as the others have it from there. */
struct stored {
	char *dir;
	char *meta, *tensors; /* state.json; state.safetensors, decompressed */
	size_t n_dir, n_meta, n_tensors;
};

static void forget(struct stored *s)
{
	free(s->dir);
	free(s->meta);
	free(s->tensors);
	*s = (struct stored) { 0 };
}

/* 1: it is there and another one. */
static int differs(const json_t *j, const char *key, uint64_t want, const char *path, struct err *e)
{
	const char *stored;

	if (json_get_str(&stored, j, key, "", path, e))
		return -1;
	char *hex = mem_printf("%016" PRIx64, want);
	int ret = strcmp(hex, stored) != 0;
	free(hex);
	return ret;
}

/* ---- Is it this run's? ----------------------------------------------------------------------- */

#define OWN_SETTINGS "(--resume without a configuration takes the run's own; --run DIR begins another run)"

/* Whether the configuration may go on from there; the one before it could not help against a difference. */
static int check_fits(const struct trainer *t, const json_t *j, const char *path, struct err *e)
{
	int64_t format, seed, stage;
	int stages = experiment_stages(t->file);

	if (json_get_int(&format, j, "format", 0, path, e) || json_get_int(&seed, j, "seed", -1, path, e) ||
	    json_get_int(&stage, j, "stage", 0, path, e))
		return -1;
	if (format != CHECKPOINT_FORMAT)
		return err_set(e, "%s: format %lld; this program reads format %d", path, (long long)format,
			       CHECKPOINT_FORMAT);
	if (stage < 0 || stage >= stages)
		return err_set(e,
			       "%s: belongs to stage %lld, but the configuration has %d: resume with all "
			       "stages that the run has had " OWN_SETTINGS,
			       path, (long long)stage + 1, stages);
	if (seed != t->file->run.seed)
		return err_set(e,
			       "%s: the run has seed %lld, the configuration %lld: --set run.seed=%lld goes "
			       "on " OWN_SETTINGS,
			       path, (long long)seed, (long long)t->file->run.seed, (long long)seed);
	int ret = differs(j, "base_model", t->hashes.transformer, path, e);
	if (ret > 0)
		return err_set(
		    e, "%s: made from another base model than %s: set model.path to the run's " OWN_SETTINGS,
		    path, t->file->model.path);
	if (!ret && (ret = differs(j, "adapter", checkpoint_shape(&t->policies.theta), path, e)) > 0)
		return err_set(e,
			       "%s: made with another adapter (rank, alpha or targets): set lora.* to the "
			       "run's " OWN_SETTINGS,
			       path);
	return ret;
}

/* ---- Rank 0 reads ---------------------------------------------------------------------------- */

static int read_tensors(struct stored *s, const json_t *j, struct err *e)
{
	char *path = file_join(s->dir, "state.safetensors.zst");
	int ret = file_read_zstd_until(&s->tensors, &s->n_tensors, path, st_end, e);

	if (!ret && (ret = differs(j, "data", file_hash(s->tensors, s->n_tensors, 0), path, e)) > 0)
		ret = err_set(e, "%s: damaged: its checksum is not the one in state.json", path);
	free(path);
	return ret;
}

static void offer_before(const char *dir, struct err *e)
{
	char *all = file_dir(dir), *name = checkpoints_before(dir);
	struct err said = *e;

	if (name)
		err_set(e, "%.700s; to continue from the checkpoint before it: echo -n %s > %s/latest",
			said.msg, name, all);
	free(all);
	free(name);
}

/* What is damaged can be gone around; a run that is another cannot. */
static int read_stored(const struct trainer *t, struct stored *s, struct err *e)
{
	char *path = file_join(s->dir, "state.json");
	bool damaged = true;
	int ret = -1;
	json_t *j = file_read(&s->meta, &s->n_meta, path, e) ? NULL : json_parse(s->meta, s->n_meta, path, e);

	if (j && !json_is_object(j))
		err_set(e, "%s: not an object", path);
	else if (j && check_fits(t, j, path, e))
		damaged = false;
	else if (j)
		ret = read_tensors(s, j, e);
	if (ret && damaged)
		offer_before(s->dir, e);
	json_decref(j);
	free(path);
	return ret;
}

static void tell(struct dist *d, char **data, size_t *n)
{
	dist_broadcast(d, n, sizeof *n, 0);
	if (d->rank) {
		*data = mem_alloc(*n + 1);
		(*data)[*n] = '\0';
	}
	dist_broadcast(d, *data, *n, 0);
}

/* Collective.  *s stays empty where there is no checkpoint. */
static int get(const struct trainer *t, struct stored *s, struct err *e)
{
	bool failed = false;
	int ret = 0;

	*s = (struct stored) { 0 };
	if (t->dist->rank == 0) {
		s->dir = checkpoints_newest(t->dir, &failed, e);
		ret = failed || (s->dir && read_stored(t, s, e)) ? -1 : 0;
		s->n_dir = s->dir ? strlen(s->dir) : 0;
	}
	if (dist_agree(t->dist, ret, e)) {
		forget(s);
		return -1;
	}
	tell(t->dist, &s->dir, &s->n_dir);
	if (s->n_dir) {
		tell(t->dist, &s->meta, &s->n_meta);
		tell(t->dist, &s->tensors, &s->n_tensors);
	}
	return 0;
}

/* ---- All ranks take it ----------------------------------------------------------------------- */

/* Sizes that `auto` became; checkpoints of earlier versions have 0 for a stage that had not begun, and what
 * runs keeps its own. */
static int take_batches(struct trainer *t, const json_t *j, const char *path, struct err *e)
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

/* Of an early end; checkpoints of earlier versions were written at the end of an epoch, after its evaluation.
 */
static int take_place(struct progress_state *at, const json_t *j, const char *path, struct err *e)
{
	int64_t looked = at->stage_step ? at->step : -1;

	return json_get_int(&at->part, j, "part", 0, path, e) ||
		       json_get_int(&at->evaluated, j, "evaluated", looked, path, e) ||
		       json_get_int(&at->drawn, j, "drawn", looked, path, e) ||
		       json_get_int(&at->rows, j, "rows", -1, path, e) ||
		       json_get_int(&at->skipped_in_row, j, "skipped_in_row", 0, path, e) ||
		       json_get_int(&at->empty_in_row, j, "empty_in_row", 0, path, e) ||
		       json_get_int(&at->rollbacks, j, "rollbacks", 0, path, e)
		   ? -1
		   : 0;
}

/* What the sets of prompts got.  Where they or their weights are others than then, shares begin anew: a set
 * that came later has nothing to catch up with. */
static int take_dealt(struct trainer *t, const json_t *j, const char *path, struct err *e)
{
	const json_t *in = json_object_get(j, "dealt");
	bool same = json_object_size(in) == (size_t)t->train.sets;

	memset(t->at.dealt, 0, sizeof t->at.dealt);
	for (int k = 0; k < t->train.sets && same; k++) {
		const struct prompt_set *set = &t->train.set[k];
		const json_t *one = json_object_get(in, set->name);
		double weight = NAN;

		if (one && (json_get_int(&t->at.dealt[k], one, "groups", 0, path, e) ||
			    json_get_number(&weight, one, "weight", 0, path, e)))
			return -1;
		same = one && !(weight < set->weight) && !(weight > set->weight) && !isnan(weight);
	}
	if (!same)
		memset(t->at.dealt, 0, sizeof t->at.dealt);
	return 0;
}

static int take_counters(struct trainer *t, const json_t *j, const char *path, struct err *e)
{
	return json_get_int(&t->at.stage, j, "stage", 0, path, e) ||
		       json_get_int(&t->at.step, j, "step", 0, path, e) ||
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
		       json_get_number(&t->at.forwards, j, "forwards", 0, path, e) ||
		       take_place(&t->at, j, path, e) || take_dealt(t, j, path, e) ||
		       take_batches(t, j, path, e) ||
		       alarm_from_json(&t->alarm, json_object_get(j, "alarm"), path, e)
		   ? -1
		   : eval_from_json(&t->before, json_object_get(j, "before"), path, e);
}

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

/* Owns the tensors' bytes afterwards. */
static int take_tensors(struct trainer *t, struct stored *s, struct err *e)
{
	struct policies *p = &t->policies;
	struct st_file f;
	char *bytes = s->tensors;

	s->tensors = NULL;
	if (st_open_bytes(&f, bytes, s->n_tensors, s->dir, e))
		return -1;
	int ret = take_into(p->theta.flat, &f, "theta", e) || take_into(p->old.flat, &f, "old", e) ||
			  take_into(p->ema.flat, &f, "ema", e) ||
			  take_into(t->optimizer.m_P, &f, "adam.m", e) ||
			  take_into(t->optimizer.v_P, &f, "adam.v", e)
		      ? -1
		      : 0;
	st_close(&f);
	return ret;
}

static int take(struct trainer *t, struct stored *s, struct err *e)
{
	char *path = file_join(s->dir, "state.json");
	json_t *j = json_parse(s->meta, s->n_meta, path, e);
	int ret = j && !take_counters(t, j, path, e) && !take_tensors(t, s, e) ? 0 : -1;

	if (ret && t->dist->rank == 0)
		offer_before(s->dir, e);
	if (!ret && t->dist->rank == 0 && !t->inputs) /* going back within a run: they are this run's */
		t->inputs = json_incref(json_object_get(j, "inputs"));
	json_decref(j);
	free(path);
	if (!ret)
		policies_refresh(&t->policies);
	return ret;
}

int checkpoint_resume(struct trainer *t, bool *found, struct err *e)
{
	struct stored s;
	int ret;

	*found = false;
	alive_mark("reading a checkpoint");
	if (get(t, &s, e))
		return -1;
	if (s.n_dir) {
		ret = dist_agree(t->dist, take(t, &s, e), e);
		*found = !ret;
	} else {
		ret = 0;
	}
	forget(&s);
	if (*found)
		checkpoint_advise(t);
	return ret;
}

int64_t checkpoint_stage(const char *run, struct dist *d)
{
	struct err ignored; /* whoever resumes will say it */
	int64_t stage = 0;
	bool failed;

	if (d->rank == 0) {
		char *dir = checkpoints_newest(run, &failed, &ignored),
		     *path = dir ? file_join(dir, "state.json") : NULL;
		json_t *j = path ? json_read(path, &ignored) : NULL;

		if (!j || json_get_int(&stage, j, "stage", 0, path, &ignored))
			stage = 0;
		json_decref(j);
		free(path);
		free(dir);
	}
	dist_broadcast(d, &stage, sizeof stage, 0);
	return stage;
}
