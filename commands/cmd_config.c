/* cmd_config.c -- contraflow config: what a configuration resolves to, and what there is to configure. */
#include "base/mem.h"
#include "rewards/mixture/mixture.h"
#include "commands/import/import.h"
#include "commands/options.h"
#include "trainer/pretrain/pretrain.h"
#include "trainer/prompt_sets.h"
#include "trainer/record/metric_table.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int resolved(const char *path, const struct option_list *set, struct err *e)
{
	struct experiment x;
	struct text t = { 0 };

	if (experiment_read(&x, path, set->v, set->n, e))
		return -1;
	struct conf_node *tree = conf_empty();
	experiment_store(&x, tree);
	conf_emit(&t, tree);
	fputs(t.s, stdout);
	text_free(&t);
	conf_node_free(tree);
	experiment_release(&x);
	return 0;
}

/* Every table through one printer: `docs` makes Markdown, otherwise text for a terminal. */
static void table(struct text *t, bool docs, const char *title, const struct field *f, const char *section)
{
	if (docs) {
		conf_docs(t, title, f, section);
	} else {
		text_printf(t, "%s\n", title);
		conf_help(t, f, section);
		text_add(t, "\n");
	}
}

static void all_tables(bool docs)
{
	const struct field none[] = { FIELD_END };
	struct field every[MIXTURE_FIELDS];
	struct text t = { 0 };

	if (docs)
		text_add(
		    &t,
		    "# Configuration reference\n\nMade by `contraflow config reference`; a test "
		    "checks that it is "
		    "current. A configuration is a YAML file. With `extends: other.yaml` (relative to the "
		    "file) it starts from another file and overrides its keys (from several with `extends: "
		    "[a.yaml, "
		    "b.yaml]`, each over those before it); `--set a.b=c` overrides all. "
		    "A plain `null` means that a key is not set: the default, or, in `rewards`, one fewer "
		    "than in the file that is extended (`rewards: {ocr: null}`); `\"null\"` is a word. "
		    "All other paths in a file (`model.path`, `prompts.*`, `module`, `run.out`) are relative "
		    "to the folder the program is started in. "
		    "A key that is marked \"formerly\" is also accepted under that name, with a warning."
		    "\n\n# `contraflow train`\n\n"
		    "An experiment may run in stages, in the order of the file: `stages: {NAME: {...}, "
		    "...}`. A stage may have any section except run, ranks, model and lora; its keys "
		    "override the file's, and its `rewards`, `eval.rewards` and `prompts.sets` (or "
		    "`prompts.train`), if given, replace the file's as a whole. The "
		    "adapter, the optimizer's moments and the counters carry over from stage to stage. "
		    "`max_steps`, `max_seconds` and the schedules of the learning rate and the old policy "
		    "count the steps of the stage.\n\n");
	for (const struct experiment_section *s = experiment_sections; s->name; s++) {
		table(&t, docs, s->doc, s->fields, s->name);
		if (!strcmp(s->name, "prompts"))
			table(&t, docs,
			      "Several sets of prompts, in place of prompts.train: each may have, beside "
			      "these keys, `rewards: {NAME: WEIGHT, ...}` (docs/rewards.md)",
			      prompt_set_fields, "prompts.sets.NAME");
	}
	for (int i = 0; algorithms[i]; i++) {
		char *title = mem_printf("Algorithm `%s`: %s", algorithms[i]->name, algorithms[i]->doc);

		table(&t, docs, title, algorithms[i]->fields, algorithms[i]->name);
		free(title);
	}
	mixture_fields(NULL, every);
	table(&t, docs,
	      "Every entry of `rewards` and of `eval.rewards` (which score evaluations alone and are never "
	      "trained on)",
	      every, "rewards.NAME");
	for (int i = 0; reward_types[i]; i++) {
		const struct reward_type *type = reward_types[i];
		char *section = mem_printf("rewards.%s", type->name);
		char *title = mem_printf("Reward `%s`: %s", type->name, type->doc);

		table(&t, docs, title, type->fields ? type->fields : none, section);
		free(section);
		free(title);
	}
	if (docs)
		text_add(&t, "# `contraflow pretrain`\n\n");
	for (const struct pretrain_section *s = pretrain_sections; s->name; s++)
		table(&t, docs, s->doc, s->fields, s->name);
	fputs(t.s, stdout);
	text_free(&t);
}

static int run(int argc, char **argv, struct err *e)
{
	const char *args[2];
	struct option_list set = { .n = 0 };
	int64_t gpus = OPTION_UNSET;
	const struct option_spec spec[] = {
		{ "set", 'm', &set, "KEY=VALUE", "override a key; may be repeated" },
		{ "gpus", 'i', &gpus, "N", "import: how many GPUs the configuration was made for" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	int n, ret = options_parse(&cmd_config, spec, argc, argv, args, 2, &n, e);

	if (ret)
		return ret;
	if (n == 1 && (!strcmp(args[0], "reference") || !strcmp(args[0], "keys"))) {
		all_tables(!strcmp(args[0], "reference"));
		return 0;
	}
	if (n == 1 && !strcmp(args[0], "metrics")) {
		struct text t = { 0 };

		metric_docs(&t);
		fputs(t.s, stdout);
		text_free(&t);
		return 0;
	}
	if (n == 1 && !strcmp(args[0], "migrating")) {
		struct text t = { 0 };

		import_docs(&t);
		fputs(t.s, stdout);
		text_free(&t);
		return 0;
	}
	if (n == 2 && !strcmp(args[0], "import")) {
		struct text t = { 0 };

		ret = import_config(&t, args[1], gpus, e);
		if (!ret)
			fputs(t.s, stdout);
		text_free(&t);
		return ret;
	}
	if (n == 2 && !strcmp(args[0], "show"))
		return resolved(args[1], &set, e);
	return err_set(e, "config: usage: contraflow config %s", cmd_config.usage);
}

const struct command cmd_config = { "config",
				    "show CONFIG [--set KEY=VALUE ...] | import FILE|NAME [--gpus N] | keys "
				    "| reference | metrics | migrating",
				    "show a configuration with all defaults; translate one of DiffusionNFT "
				    "or flow_grpo; list every key, or the "
				    "pages on keys, on metrics and of that translation",
				    run };
