#include "algorithms/advantage.h"
#include "base/mem.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *const std_names[] = { "global", "group", NULL };
static const char *const over_names[] = { "selected", "drawn", NULL };
static const char *const combine_names[] = { "sum", "normalised", NULL };
static const char *const mode_names[] = {
	"all", "positive_only", "negative_only", "one_only", "binary", NULL
};

const struct field advantage_fields[] = {
	FIELD(struct advantage_conf, std, .init = "global", .choices = std_names,
	      .doc =
		  "standard deviation that advantages are divided by: the whole epoch's, or the prompt's "
		  "group's; not read with `combine: normalised`, which takes first one and then the other"),
	FIELD(struct advantage_conf, mode, .init = "all", .choices = mode_names,
	      .doc =
		  "which advantages count: all; only one sign (positive_only, negative_only); 1 for positive "
		  "ones and 0 for the rest (one_only); or their sign (binary)"),
	FIELD(struct advantage_conf, over, .init = "selected", .choices = over_names,
	      .doc =
		  "where more images are drawn than trained (prompts.draw), whose rewards have the mean and "
		  "the standard deviation: those of the trained, or of all that were drawn"),
	FIELD(struct advantage_conf, clip, .init = "5", .min = 1e-3, .max = 1000,
	      .doc = "clip advantages to plus or minus this before they become probabilities"),
	FIELD(
	    struct advantage_conf, combine, .init = "sum", .choices = combine_names,
	    .doc =
		"how several rewards are combined: sum: weighted sum of their values; normalised: weighted "
		"sum of their advantages, each divided by its standard deviation in the prompt's group, and "
		"the sum by its own over the epoch (GDPO)"),
	FIELD(struct advantage_conf, reward_clip, .init = "0", .min = 0, .max = 1e6,
	      .doc = "with `normalised`, clip each reward's own advantages to plus or minus this, against "
		     "outliers; 0: no clipping"),
	FIELD_END
};

/* Mean and population variance of the rewards of one set, two passes. */
struct moments {
	double n, mean, var;
};

static double apply_mode(const char *mode, double a)
{
	if (!strcmp(mode, "positive_only"))
		return fmax(a, 0);
	if (!strcmp(mode, "negative_only"))
		return fmin(a, 0);
	if (!strcmp(mode, "one_only"))
		return a > 0 ? 1 : 0;
	if (!strcmp(mode, "binary"))
		return (a > 0) - (a < 0);
	return a;
}

static struct moments all_moments(int64_t n, const double *reward)
{
	struct moments m = { 0 };

	for (int64_t i = 0; i < n; i++)
		if (!isnan(reward[i])) {
			m.n++;
			m.mean += reward[i];
		}
	m.mean = m.n > 0 ? m.mean / m.n : 0;
	for (int64_t i = 0; i < n; i++)
		if (!isnan(reward[i]))
			m.var += (reward[i] - m.mean) * (reward[i] - m.mean);
	m.var = m.n > 0 ? m.var / m.n : 0;
	return m;
}

static struct moments *group_moments(int64_t n, const double *reward, const int64_t *group, int64_t groups)
{
	struct moments *m = mem_zero((size_t)groups, sizeof *m);

	for (int64_t i = 0; i < n; i++)
		if (!isnan(reward[i])) {
			m[group[i]].n++;
			m[group[i]].mean += reward[i];
		}
	for (int64_t g = 0; g < groups; g++)
		m[g].mean = m[g].n > 0 ? m[g].mean / m[g].n : 0;
	for (int64_t i = 0; i < n; i++)
		if (!isnan(reward[i])) {
			double d = reward[i] - m[group[i]].mean;
			m[group[i]].var += d * d / m[group[i]].n;
		}
	return m;
}

static double normalised(double reward, const struct moments *around, const struct moments *spread)
{
	return (reward - around->mean) / (sqrt(spread->var) + 1e-4);
}

/* Adds one reward's share.  v is the caller's own: values that do not count become NAN. */
static void add_normalised(const struct advantage_conf *c, int64_t n, double *v, double weight,
			   const int64_t *group, int64_t groups, const bool *left_out, double *out)
{
	double bound = c->reward_clip > 0 ? c->reward_clip : INFINITY;

	for (int64_t i = 0; i < n; i++)
		if (left_out && left_out[group[i]])
			v[i] = NAN;
	struct moments *of = group_moments(n, v, group, groups);
	for (int64_t i = 0; i < n; i++) {
		if (left_out && left_out[group[i]])
			continue;
		double a = isnan(v[i]) ? NAN : normalised(v[i], &of[group[i]], &of[group[i]]);
		out[i] += weight * (isnan(a) ? NAN : fmin(fmax(a, -bound), bound));
	}
	free(of);
}

void advantage_combine(const struct advantage_conf *c, int64_t n, int rewards, const double *value,
		       const double *weight, const int64_t *group, int64_t groups, const bool *left_out,
		       double *out)
{
	double *v = mem_zero((size_t)n, sizeof *v);

	for (int64_t i = 0; i < n; i++)
		out[i] = 0;
	for (int k = 0; k < rewards; k++) {
		if (weight[k] == 0)
			continue;
		memcpy(v, value + (int64_t)k * n, (size_t)n * sizeof *v);
		add_normalised(c, n, v, weight[k], group, groups, left_out ? left_out + k * groups : NULL,
			       out);
	}
	for (int64_t i = 0; i < n && left_out; i++) {
		int counts = 0;
		for (int k = 0; k < rewards; k++)
			counts += weight[k] != 0 && !left_out[k * groups + group[i]];
		if (!counts)
			out[i] = NAN;
	}
	free(v);
}

void advantage_describe(int64_t n, const double *reward, struct advantage_stats *stats)
{
	struct moments all = all_moments(n, reward);

	stats->reward_mean = all.mean;
	stats->reward_std = sqrt(all.var);
}

void advantage_compute(const struct advantage_conf *c, int64_t n, const double *reward, const int64_t *group,
		       int64_t groups, double *advantage, double *r, struct advantage_stats *stats)
{
	struct moments all = all_moments(n, reward), *of = group_moments(n, reward, group, groups);
	bool combined = !strcmp(c->combine, "normalised"), global = !strcmp(c->std, "global");
	double r_sum = 0;

	for (int64_t i = 0; i < n; i++) {
		advantage[i] = r[i] = NAN;
		if (isnan(reward[i]))
			continue;
		const struct moments *own = &of[group[i]];
		double a = normalised(reward[i], combined ? &all : own, combined || global ? &all : own);
		double clipped = fmin(fmax(a, -c->clip), c->clip);
		advantage[i] = a;
		r[i] = fmin(fmax(apply_mode(c->mode, clipped) / c->clip / 2 + 0.5, 0), 1);
		r_sum += r[i];
	}
	*stats = (struct advantage_stats) { .reward_mean = all.mean,
					    .reward_std = sqrt(all.var),
					    .r_mean = all.n > 0 ? r_sum / all.n : NAN };
	for (int64_t g = 0; g < groups; g++)
		stats->flat_groups += of[g].var < 1e-12;
	free(of);
}
