#include "commands/options.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void help(const struct command *c, const struct option_spec *spec)
{
	printf("usage: contraflow %s %s\n\n%s\n", c->name, c->usage, c->doc);
	if (spec->name)
		printf("\n");
	for (; spec->name; spec++) {
		char left[64];
		snprintf(left, sizeof left, spec->kind == 'v' ? "%s%s%s[=%s]" : "%s%s%s%s",
			 spec->name[1] ? "--" : "-", spec->name, spec->arg && spec->kind != 'v' ? " " : "",
			 spec->arg ? spec->arg : "");
		printf("  %-24s %s\n", left, spec->doc);
	}
}

static const struct option_spec *find(const struct option_spec *spec, const char *name, size_t n)
{
	for (; spec->name; spec++)
		if (strlen(spec->name) == n && !strncmp(spec->name, name, n))
			return spec;
	return NULL;
}

static int unknown(const struct command *c, const struct option_spec *spec, const char *arg, struct err *e)
{
	const char *names[64];
	int n = 0;

	for (const struct option_spec *s = spec; s->name && n < 63; s++)
		names[n++] = s->name;
	names[n] = NULL;
	const char *near = text_nearest(arg + strspn(arg, "-"), names);
	return err_set(e, "%s: unknown option '%s'%s%s%s; see contraflow %s --help", c->name, arg,
		       near ? "; did you mean --" : "", near ? near : "", near ? "?" : "", c->name);
}

static int store(const struct command *c, const struct option_spec *s, const char *value, struct err *e)
{
	char *end;

	errno = 0;
	switch (s->kind) {
	case 'i':
		*(int64_t *)s->out = strtoll(value, &end, 10);
		if (errno || end == value || *end)
			return err_set(e, "%s: --%s '%s' is not an integer", c->name, s->name, value);
		return 0;
	case 'r':
		*(double *)s->out = strtod(value, &end);
		if (end == value || *end)
			return err_set(e, "%s: --%s '%s' is not a number", c->name, s->name, value);
		return 0;
	case 'm': {
		struct option_list *l = s->out;
		if (l->n == OPTION_REPEAT)
			return err_set(e, "%s: --%s is given more than %d times", c->name, s->name,
				       OPTION_REPEAT);
		l->v[l->n++] = value;
		return 0;
	}
	default:
		*(const char **)s->out = value;
		return 0;
	}
}

int options_parse(const struct command *c, const struct option_spec *spec, int argc, char **argv,
		  const char **args, int most, int *n, struct err *e)
{
	bool all = false; /* behind "--" nothing is an option */

	*n = 0;
	for (int i = 0; i < argc; i++) {
		const char *a = argv[i], *name = a + strspn(a, "-"), *eq = strchr(name, '=');
		if (!all && !strcmp(a, "--")) {
			all = true;
			continue;
		}
		if (all || *a != '-' || !*name) {
			if (*n == most)
				return err_set(e, "%s: unexpected argument '%s'; usage: contraflow %s %s",
					       c->name, a, c->name, c->usage);
			args[(*n)++] = a;
			continue;
		}
		if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
			help(c, spec);
			return 1;
		}
		if (text_starts(a, "--help=") && options_print(a + strlen("--help="), c, spec))
			return 1;
		const struct option_spec *s = find(spec, name, eq ? (size_t)(eq - name) : strlen(name));
		if (!s)
			return unknown(c, spec, a, e);
		if (s->kind == 'f' && eq)
			return err_set(e, "%s: --%s takes no value: leave it out or write it alone", c->name,
				       s->name);
		if (s->kind == 'f') {
			*(bool *)s->out = true;
			continue;
		}
		if (s->kind == 'v') {
			*(const char **)s->out = eq ? eq + 1 : "";
			continue;
		}
		if (!eq && i + 1 == argc)
			return err_set(e, "%s: %s needs a value (%s)", c->name, a, s->arg);
		if (store(c, s, eq ? eq + 1 : argv[++i], e))
			return -1;
	}
	return 0;
}
