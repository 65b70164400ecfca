/* options_print.c -- the option tables as manual pages and as completions of three shells. */
#include "base/version.h"
#include "commands/options.h"
#include <stdio.h>
#include <string.h>

#define ABOUT "online RL post-training of text-to-image flow models"

static const char *dashes(const struct option_spec *s)
{
	return s->name[1] ? "--" : "-";
}

static bool takes_value(const struct option_spec *s)
{
	return s->kind != 'f' && s->kind != 'v';
}

/* Text for roff: dashes that can be searched for, no line that is a request. */
static void roff(const char *s)
{
	if (*s == '.' || *s == '\'')
		printf("\\&");
	for (; *s; s++)
		if (*s == '-')
			printf("\\-");
		else if (*s == '\\')
			printf("\\e");
		else
			putchar(*s);
}

/* Text within single quotes of a shell; `also` is escaped by a backslash. */
static void quoted(const char *s, const char *also)
{
	putchar('\'');
	for (; *s; s++)
		if (*s == '\'')
			printf("'\\''");
		else
			printf(strchr(also, *s) ? "\\%c" : "%c", *s);
	putchar('\'');
}

/* ---- A command ----------------------------------------------------------------------------------- */

static void man(const struct command *c, const struct option_spec *spec)
{
	printf(".TH CONTRAFLOW\\-");
	for (const char *s = c->name; *s; s++)
		putchar(*s >= 'a' && *s <= 'z' ? *s - 'a' + 'A' : *s);
	printf(" 1 \"\" \"contraflow %s\"\n.SH NAME\ncontraflow\\-%s \\- ", version(), c->name);
	roff(c->doc);
	printf("\n.SH SYNOPSIS\n.B contraflow %s\n", c->name);
	roff(c->usage);
	printf("\n");
	if (spec->name)
		printf(".SH OPTIONS\n");
	for (; spec->name; spec++) {
		printf(".TP\n.B ");
		roff(dashes(spec));
		roff(spec->name);
		if (spec->arg) {
			printf(spec->kind == 'v' ? "[=" : " ");
			roff(spec->arg);
			printf(spec->kind == 'v' ? "]" : "");
		}
		printf("\n");
		roff(spec->doc);
		printf("\n");
	}
	printf(".SH SEE ALSO\n.BR contraflow (1)\n");
}

static void bash(const struct command *c, const struct option_spec *spec)
{
	printf("\t%s) words='--help", c->name);
	for (; spec->name; spec++)
		printf(" %s%s", dashes(spec), spec->name);
	printf("' ;;\n");
}

static void zsh(const struct command *c, const struct option_spec *spec)
{
	printf("\t%s) _arguments", c->name);
	for (; spec->name; spec++) {
		printf(" \\\n\t\t%s%s", spec->kind == 'm' ? "'*'" : "", dashes(spec));
		printf("%s%s", spec->name, takes_value(spec) && spec->name[1] ? "=" : "");
		printf("'['");
		quoted(spec->doc, "[]:\\");
		printf("']'");
		if (takes_value(spec)) {
			printf("':'");
			quoted(spec->arg, ":\\");
			printf("':_files'");
		}
	}
	printf(" \\\n\t\t'*:file:_files' ;;\n");
}

static void fish(const struct command *c, const struct option_spec *spec)
{
	printf("complete -c contraflow -n __fish_use_subcommand -a %s -d ", c->name);
	quoted(c->doc, "\\");
	printf("\n");
	for (; spec->name; spec++) {
		printf("complete -c contraflow -n '__fish_seen_subcommand_from %s' -%c %s%s -d ", c->name,
		       spec->name[1] ? 'l' : 's', spec->name, takes_value(spec) ? " -r" : "");
		quoted(spec->doc, "\\");
		printf("\n");
	}
}

static const struct form {
	const char *name;
	void (*print)(const struct command *c, const struct option_spec *spec);
	const char *before, *after; /* around the commands' */
} forms[] = {
	{ "man", man, NULL, NULL },
	{ "bash", bash,
	  "_contraflow()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\n\tcase ${COMP_WORDS[1]} in\n",
	  "\tesac\n\tif [[ $COMP_CWORD == 1 ]]; then\n"
	  "\t\tCOMPREPLY=($(compgen -W \"$(contraflow --help=names)\" -- \"$cur\"))\n"
	  "\telif [[ $cur == -* ]]; then\n\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	  "\tfi\n}\ncomplete -o default -F _contraflow contraflow\n" },
	{ "zsh", zsh,
	  "#compdef contraflow\nif ((CURRENT == 2)); then\n\tcompadd $(contraflow "
	  "--help=names)\n\treturn\nfi\n"
	  "shift words\n((CURRENT--))\ncase $words[1] in\n",
	  "esac\n" },
	{ "fish", fish, "", "" },
};

static const struct form *find(const char *name)
{
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
		if (!strcmp(forms[i].name, name))
			return &forms[i];
	return NULL;
}

bool options_print(const char *form, const struct command *c, const struct option_spec *spec)
{
	const struct form *f = find(form);

	if (f)
		f->print(c, spec);
	return f;
}

/* ---- The program --------------------------------------------------------------------------------- */

static void man_of_program(const struct command *const *c, int n)
{
	printf(".TH CONTRAFLOW 1 \"\" \"contraflow %s\"\n.SH NAME\ncontraflow \\- %s\n.SH SYNOPSIS\n"
	       ".B contraflow\nCOMMAND ...\n.SH COMMANDS\n",
	       version(), ABOUT);
	for (int i = 0; i < n; i++) {
		printf(".TP\n.BR contraflow\\-%s (1)\n", c[i]->name);
		roff(c[i]->doc);
		printf("\n");
	}
	printf(".SH FILES\nConfigurations, examples and the shapes world are in PREFIX/share/contraflow, and "
	       "are "
	       "found by their paths there\n(configs/shapes.yaml) wherever the program is started.\n");
}

bool options_print_program(const char *form, const struct command *const *c, int n)
{
	const struct form *f = find(form);
	char option[16];
	struct err ignored;

	if (!strcmp(form, "names")) {
		for (int i = 0; i < n; i++)
			printf("%s\n", c[i]->name);
		return true;
	}
	if (f && !f->before)
		man_of_program(c, n);
	if (!f || !f->before)
		return f;
	snprintf(option, sizeof option, "--help=%s", form);
	fputs(f->before, stdout);
	for (int i = 0; i < n; i++)
		c[i]->run(1, (char *[]) { option, NULL }, &ignored);
	fputs(f->after, stdout);
	return true;
}
