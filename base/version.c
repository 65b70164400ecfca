#include "base/version.h"

static const char *of_program = "unknown";

const char *version(void)
{
	return of_program;
}

void version_is(const char *version)
{
	of_program = version;
}
