#include "commands/compare/curves.h"
#include "base/file.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const axis_names[AXES] = { "steps", "images", "forwards", "device_seconds" };

/* Numbers beside the target: a fast curve that ruins these has not won. */
static bool is_health(const char *key)
{
	static const char *const keys[] = { "lora_norm",
					    "loss/kl",
					    "health/x0_norm",
					    "health/diversity",
					    "health/pixel_mean",
					    "health/pixel_saturated",
					    "advantage/flat_groups" };

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (!strcmp(key, keys[i]))
			return true;
	return text_starts(key, "eval/reward/");
}

static void keep_health(struct curve *c, const json_t *row)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)row, key, v) if (is_health(key) && json_is_number(v))
	    json_object_set(c->health, key, v);
}

/* What training took until here. */
static void go_on(double at[AXES], const json_t *row)
{
	const json_t *forwards = json_object_get(row, "compute/forwards");

	if (!forwards)
		return;
	at[AXIS_STEPS] = json_number_value(json_object_get(row, "step"));
	at[AXIS_IMAGES] = json_number_value(json_object_get(row, "images"));
	at[AXIS_FORWARDS] = json_number_value(forwards);
	at[AXIS_SECONDS] = json_number_value(json_object_get(row, "time/device_total"));
}

static int read_lines(struct curve *c, char *text, const char *path, const char *key, struct err *e)
{
	double at[AXES] = { 0 };
	int line = 0;

	for (char *s = text, *next; *s; s = next) {
		size_t n = strcspn(s, "\n");
		json_error_t why;
		json_t *row = json_loadb(s, n, 0, &why);

		line++;
		next = s + n + (s[n] != '\0');
		if (!row)
			return err_set(e, "%s:%d: not valid JSON: %s", path, line, why.text);
		go_on(at, row);
		keep_health(c, row);
		const json_t *score = json_object_get(row, key);
		if (json_is_number(score)) {
			struct curve_point p = { .score = json_number_value(score) };
			memcpy(p.at, at, sizeof at);
			MEM_PUSH(c->v, c->n, c->cap) = p;
		}
		json_decref(row);
	}
	return 0;
}

int curve_read(struct curve *c, const char *run, const char *score, struct err *e)
{
	char *path = file_join(run, "metrics.jsonl"), *key = mem_printf("eval/%s", score), *text;
	size_t n;

	c->health = json_object();
	int ret = file_read(&text, &n, path, e);
	if (!ret) {
		ret = read_lines(c, text, path, key, e);
		free(text);
	}
	if (!ret && !c->n)
		ret = err_set(e, "%s: no evaluation has %s", path, key);
	free(path);
	free(key);
	return ret;
}

void curve_free(struct curve *c)
{
	json_decref(c->health);
	free(c->v);
	*c = (struct curve) { 0 };
}

double curve_cross(const struct curve *c, double threshold, enum axis a)
{
	for (int i = 0; i < c->n; i++) {
		const struct curve_point *now = &c->v[i], *before = i ? now - 1 : now;

		if (now->score < threshold)
			continue;
		double rise = now->score - before->score;
		double share = rise > 0 ? (threshold - before->score) / rise : 0;
		return before->at[a] + (share > 0 ? share : 0) * (now->at[a] - before->at[a]);
	}
	return NAN;
}

double curve_at(const struct curve *c, enum axis a, double taken)
{
	for (int i = 0; i < c->n; i++) {
		const struct curve_point *now = &c->v[i], *before = i ? now - 1 : now;
		double step = now->at[a] - before->at[a];

		if (now->at[a] < taken)
			continue;
		if (i == 0 && taken < now->at[a])
			return NAN;
		return step > 0
			   ? before->score + (taken - before->at[a]) / step * (now->score - before->score)
			   : now->score;
	}
	return NAN;
}
