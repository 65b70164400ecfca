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

bool reward_sane(double value, const char *whose, char why[REWARD_WHY])
{
	if (isfinite(value) && fabs(value) <= REWARD_MOST)
		return true;
	if (isfinite(value))
		snprintf(why, REWARD_WHY, "%.60s score of %.3g is beyond +-%g", whose, value, REWARD_MOST);
	else
		snprintf(why, REWARD_WHY, "%.120s score is not finite", whose);
	return false;
}

void reward_put(struct reward_score *out, int n, const double *value, const char *whose)
{
	char why[REWARD_WHY];

	for (int i = 0; i < n; i++) {
		bool ok = reward_sane(value[i], whose, why);

		reward_fail(&out[i], 1, ok ? "" : why);
		out[i].ok = ok;
		out[i].value = ok ? value[i] : NAN;
	}
}
