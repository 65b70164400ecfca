#include "trainer/record/archive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <inttypes.h>
#include <stdlib.h>

#define ZSTD_LEVEL 3

/* {"12": "a photo of ..."} for the prompts of this share. */
static char *prompts_json(const struct trainer *t, const struct samples *s)
{
	json_t *j = json_object();
	char id[32], *text;

	for (int64_t i = s->first; i < s->first + s->count; i++) {
		snprintf(id, sizeof id, "%lld", (long long)s->prompt[i]);
		json_object_set_new(j, id, json_string(t->train.v[s->prompt[i]].text));
	}
	text = json_line(j);
	json_decref(j);
	return text;
}

static at_t floats(const double *v, int64_t n)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	return at_return(sc, at_cast(at_from(v, DIMS(n), AT_F64), AT_F32));
}

static int write_share(struct trainer *t, const struct samples *s, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t n = s->count, first = s->first;
	struct st_item *item = mem_zero((size_t)(5 + s->scores.rewards), sizeof *item);
	char *path = mem_printf("%s/rollouts/epoch-%06lld.rank-%04d.safetensors.zst", t->dir,
				(long long)t->at.epoch, t->dist->rank);
	char *epoch = mem_printf("%lld", (long long)t->at.epoch),
	     *step = mem_printf("%lld", (long long)t->at.step),
	     *seed = mem_printf("%lld", (long long)t->x->run.seed),
	     *policy = mem_printf("%016" PRIx64, lora_hash(&t->policies.old)), *prompts = prompts_json(t, s),
	     *data = NULL;
	const struct st_meta_item meta[] = { { "epoch", epoch },
					     { "step", step },
					     { "seed", seed },
					     { "policy", policy },
					     { "prompts", prompts } };
	at_t id = at_add(at_arange(n, AT_I64, AT_CPU), (double)first);
	size_t size = 0;
	int k = 0, ret;

	item[k++] = (struct st_item) { "x0", s->x0_NCHW };
	item[k++] = (struct st_item) { "prompt_id", at_from(s->prompt + first, DIMS(n), AT_I64) };
	item[k++] = (struct st_item) { "sample", at_cast(id, AT_I64) };
	item[k++] = (struct st_item) { "r", floats(s->r + first, n) };
	item[k++] = (struct st_item) { "advantage", floats(s->advantage + first, n) };
	for (int j = 0; j < s->scores.rewards; j++)
		if (!mixture_at(t->mixture, j)->held_out)
			item[k++] =
			    (struct st_item) { mem_printf("reward.%s", mixture_at(t->mixture, j)->name),
					       floats(s->scores.value + j * s->n + first, n) };
	ret = st_write_bytes(&data, &size, item, k, meta, 5, e);
	if (!ret)
		ret = file_write_zstd(path, data, size, ZSTD_LEVEL, e);
	for (int j = 5; j < k; j++)
		free((char *)(uintptr_t)item[j].name);
	free(item);
	free(path);
	free(epoch);
	free(step);
	free(seed);
	free(policy);
	free(prompts);
	free(data);
	at_end(sc);
	return ret;
}

int archive_write(struct trainer *t, const struct samples *s, struct err *e)
{
	char *dir = file_join(t->dir, "rollouts");
	int ret = dist_agree(t->dist, file_mkdirs(dir, e), e);

	free(dir);
	return ret ? ret : dist_agree(t->dist, write_share(t, s, e), e);
}
