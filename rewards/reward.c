#include "rewards/reward.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

void reward_fail(struct reward_score *out, int n, const char *why)
{
	for (int i = 0; i < n; i++) {
		out[i] = (struct reward_score) { .value = NAN };
		for (int k = 0; k < REWARD_SUBS; k++)
			out[i].sub[k] = NAN;
		snprintf(out[i].why, sizeof out[i].why, "%s", why);
	}
}

void reward_put(struct reward_score *out, int n, const double *value, const char *whose)
{
	for (int i = 0; i < n; i++) {
		bool ok = fabs(value[i]) <= REWARD_MOST;

		reward_fail(&out[i], 1, "");
		if (!isfinite(value[i]))
			snprintf(out[i].why, sizeof out[i].why, "%.120s score is not finite", whose);
		else if (!ok)
			snprintf(out[i].why, sizeof out[i].why, "%.100s score is %g, beyond %g", whose,
				 value[i], REWARD_MOST);
		out[i].ok = ok;
		out[i].value = ok ? value[i] : NAN;
	}
}
