#include "trainer/record/adapters.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/lora/lora_raw.h"
#include "trainer/experiment.h"
#include "trainer/record/checkpoints.h"
#include <stdlib.h>
#include <string.h>

/* Of a run's newest checkpoint, or NULL. */
static char *newest(const char *run)
{
	struct err ignored;
	bool failed;
	char *dir = checkpoints_newest(run, &failed, &ignored), *lora = dir ? file_join(dir, "lora") : NULL;

	free(dir);
	return lora;
}

char *adapters_find(const char *path, struct err *e)
{
	char *inside = file_join(path, "lora"), *of_run = newest(path);
	const char *found = lora_raw_is(path)               ? path
			    : lora_raw_is(inside)           ? inside
			    : of_run && lora_raw_is(of_run) ? of_run
							    : NULL;
	char *ret = mem_str(found);

	if (!found)
		err_set(
		    e,
		    file_exists(path)
			? "%s: not an adapter: give a PEFT folder, a .safetensors file, a checkpoint or a "
			  "run"
			: "%s: no such file or folder",
		    path);
	free(inside);
	free(of_run);
	return ret;
}

int adapters_hash(uint64_t *hash, const char *path, struct err *e)
{
	struct lora_raw r;

	if (lora_raw_open(&r, path, e))
		return -1;
	*hash = st_hash(&r.file);
	for (int i = 0; i < r.n; i++) { /* PEFT has them in another file */
		const struct lora_size *s = &r.pair[i].size;

		*hash = file_hash(&s->rank, sizeof s->rank, *hash);
		*hash = file_hash(&s->alpha, sizeof s->alpha, *hash);
	}
	lora_raw_close(&r);
	return 0;
}

/* The stage that a checkpoint says it is of, beside its adapter; -1: it does not. */
static int64_t stage_of(const char *path)
{
	struct err ignored;
	char *lora = adapters_find(path, &ignored), *state = lora ? file_join(lora, "../state.json") : NULL;
	json_t *j = state && file_exists(state) ? json_read(state, &ignored) : NULL;
	int64_t stage = -1;

	if (j && json_get_int(&stage, j, "stage", -1, state, &ignored))
		stage = -1;
	json_decref(j);
	free(state);
	free(lora);
	return stage;
}

/* RUN/config.yaml, for RUN/checkpoints/step-1/lora and every folder on the way. */
char *adapters_run(const char *path, int64_t *stage)
{
	char *dir = mem_str(path), *config = NULL;

	for (int up = 0; up < 4 && !config; up++) {
		char *above = file_join(dir, ".."), *checkpoints = file_join(dir, "checkpoints");

		config = file_join(dir, "config.yaml");
		if (!file_exists(config) || !file_exists(checkpoints)) {
			free(config);
			config = NULL;
		}
		free(checkpoints);
		free(dir);
		dir = above;
	}
	free(dir);
	if (config && stage)
		*stage = stage_of(path);
	return config;
}

char *adapters_model(const char *path, struct err *e)
{
	char *config = adapters_run(path, NULL), *model = NULL;
	struct experiment x;

	if (!file_exists(path)) {
		err_set(e, "%s: no such file or folder", path);
	} else if (!config) {
		err_set(e, "%s does not belong to a run: give --model DIR", path);
	} else if (experiment_read(&x, config, NULL, 0, e)) {
		err_in(e, "cannot find the model of %s (give --model DIR)", path);
	} else {
		model = mem_str(x.model.path);
		experiment_release(&x);
	}
	free(config);
	return model;
}
