/* archived.c -- an epoch that was sampled before: what rollout.c makes, from rollout archives. */
#include "base/log.h"
#include "base/mem.h"
#include "models/lora/lora.h"
#include "trainer/trainer.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The images of a prompt, where an algorithm looks at whole groups. */
static int check_groups(const struct archive_epoch *x, const char *algorithm, struct err *e)
{
	int64_t size = 0, run = 0;

	for (int64_t i = 0; i < x->n; i++) {
		bool ends = i + 1 == x->n || x->prompt[i + 1] != x->prompt[i];

		run++;
		if (!ends)
			continue;
		if (size && run != size)
			return err_set(
			    e,
			    "%s: %s looks at whole groups, and this epoch has prompts of %lld and of %lld "
			    "images",
			    x->file[0], algorithm, (long long)size, (long long)run);
		size = run;
		run = 0;
	}
	return 0;
}

static int check_epoch(const struct trainer *t, const struct archive_epoch *x, struct err *e)
{
	const struct algorithm_type *type = t->x->algorithm;
	struct at_dims chw = pipeline_latent_shape(&t->pipeline, t->x->prompts.height, t->x->prompts.width);

	if (!at_dims_equal(chw, x->chw))
		return err_set(e,
			       "%s: latents are (%lld, %lld, %lld), and the configuration's are (%lld, %lld, "
			       "%lld): see prompts.height, prompts.width and model.path",
			       x->file[0], (long long)x->chw.d[0], (long long)x->chw.d[1],
			       (long long)x->chw.d[2], (long long)chw.d[0], (long long)chw.d[1],
			       (long long)chw.d[2]);
	if (x->n < t->dist->ranks)
		return err_set(e, "%s: its %lld images are fewer than the %d ranks; start fewer", x->file[0],
			       (long long)x->n, t->dist->ranks);
	if (x->levels && type->pairs)
		return err_set(e, "%s has timesteps, and %s chooses its own; leave them out", x->file[0],
			       type->name);
	if (x->levels > t->rollout.schedule.steps)
		return err_set(e, "%s: %lld timesteps an image are more than rollout.steps = %d", x->file[0],
			       (long long)x->levels, t->rollout.schedule.steps);
	return type->group ? check_groups(x, type->name, e) : 0;
}

int archived_check(const struct trainer *t, struct err *e)
{
	const struct algorithm_type *type = t->x->algorithm;
	int ret = 0;

	if (type->demands(t->x->algorithm_conf, &t->x->advantage).needs & NEEDS_LAW)
		ret = err_set(e, "%s learns from the steps of a rollout, which archives do not hold",
			      type->name);
	for (int i = 0; i < t->archives->n && !ret; i++)
		ret = check_epoch(t, &t->archives->epoch[i], e);
	return ret;
}

/* An archive says whose images it holds. */
static void compare_policy(const struct trainer *t, const struct archive_epoch *x)
{
	char *own = mem_printf("%016" PRIx64, lora_hash(&t->policies.old));

	if (t->dist->rank == 0 && *x->policy && strcmp(own, x->policy))
		log_info("%s was sampled by another policy than the old one of this replay", x->file[0]);
	free(own);
}

/* Arrays of all samples. */
static void fill(struct trainer *t, struct samples *s, const struct archive_epoch *x)
{
	double clip = t->x->advantage.clip, sum = 0, scored = 0;
	int64_t groups = 1, end;

	for (int64_t i = 1; i < x->n; i++)
		groups += x->prompt[i] != x->prompt[i - 1];
	samples_make(s, x->n, groups);
	for (int64_t i = 0; i < x->n; i++) {
		s->prompt[i] = x->prompt[i];
		s->group[i] = i ? s->group[i - 1] + (x->prompt[i] != x->prompt[i - 1]) : 0;
		s->r[i] = x->r[i];
		s->advantage[i] = x->advantages ? x->advantage[i] : (2 * x->r[i] - 1) * clip;
		s->strict[i] = NAN;
		if (!isnan(s->r[i])) {
			sum += s->r[i];
			scored++;
		}
	}
	mixture_scores_init(&s->scores, (int)s->n, 0);
	memcpy(s->scores.total, x->total, (size_t)s->n * sizeof *x->total);
	s->scores.unavailable = s->n - (int64_t)scored;
	s->stats = (struct advantage_stats) { .r_mean = scored > 0 ? sum / scored : NAN };
	advantage_describe(s->n, s->scores.total, &s->stats);
	prompts_share(s->n, t->dist->rank, t->dist->ranks, &s->first, &end);
	s->count = end - s->first;
}

int archived_epoch(struct trainer *t, struct samples *s, struct err *e)
{
	const struct archives *a = t->archives;
	const struct archive_epoch *x = &a->epoch[t->at.epoch];
	double start = clock_now();
	at_t x0;

	fill(t, s, x);
	compare_policy(t, x);
	int ret = archives_take(a, (int)t->at.epoch, s->first, s->count, &x0, &s->given_t_NT,
				&s->given_noise_NTCHW, e);
	if (dist_agree(t->dist, ret, e)) {
		if (!ret)
			at_free(x0);
		return -1;
	}
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	s->given = (int)x->levels;
	s->x0_NCHW = at_keep(at_to(x0, AT_F32, t->pipeline.device));
	at_free(x0);
	at_end(sc);
	samples_measure(t, s);
	ret = samples_encode(t, s, e);
	s->rollout_seconds = clock_now() - start;
	return ret;
}
