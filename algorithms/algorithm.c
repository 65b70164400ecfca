#include "algorithms/algorithm.h"
#include <string.h>

/* Every algorithm, a line each. */
#define EVERY(X)                                                                                             \
	X(nft)                                                                                               \
	X(flow_grpo)                                                                                         \
	X(awm)                                                                                               \
	X(dpo)                                                                                               \
	X(dgpo)                                                                                              \
	/* the end */

#define DECLARE(name) extern const struct algorithm_type algorithm_##name;
#define POINT(name)   &algorithm_##name,
#define NAME(name)    #name,

EVERY(DECLARE)
const struct algorithm_type *const algorithms[] = { EVERY(POINT) NULL };
const char *const algorithm_names[] = { EVERY(NAME) NULL };

const struct algorithm_type *algorithm_find(const char *name)
{
	for (const struct algorithm_type *const *a = algorithms; *a; a++)
		if (!strcmp((*a)->name, name))
			return *a;
	return NULL;
}

const char *const *algorithm_metrics(const struct algorithm_type *type)
{
	static const char *const none[] = { NULL };

	return type->metrics ? type->metrics : type->notes ? type->notes : none;
}
