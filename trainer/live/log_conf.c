/* log_conf.c -- the section `log`. */
#include "base/mem.h"
#include "trainer/experiment.h"
#include <stdlib.h>

static const struct field_word port_words[] = { { "none", -1 }, { NULL, 0 } };
const struct field log_fields[] = {
	FIELD(struct log_conf, grid_every, .init = "50", .min = 0, .max = 1e9, .unit = "optimizer steps",
	      .doc = "steps between image grids of fixed held-out prompts (samples/); 0: only before and "
		     "after training"),
	FIELD(struct log_conf, grid_zoom, .init = "1", .min = 1, .max = 64,
	      .doc = "factor by which grids are enlarged, for models with tiny images"),
	FIELD(struct log_conf, rollouts_every, .init = "0", .min = 0, .max = 1e9, .unit = "epochs",
	      .doc = "epochs between files of what was sampled (rollouts/); 0: none"),
	FIELD(struct log_conf, tensorboard, .init = "true", .doc = "write TensorBoard event files"),
	FIELD(struct log_conf, metrics_port, .init = "none", .min = 0, .max = 65535, .words = port_words,
	      .doc =
		  "port on which rank 0 answers Prometheus at /metrics; 0: any free one, which is printed; "
		  "none: no server"),
	FIELD(struct log_conf, metrics_host, .init = "127.0.0.1",
	      .doc = "address of that server: this machine only, unless another is set (0.0.0.0: all of the "
		     "machine's), where anyone may read the numbers"),
	FIELD(struct log_conf, exec, .init = "", .max = 1000,
	      .doc = "a program and its arguments, which gets rows and paths of images as JSON lines on its "
		     "standard input: a tracker (examples/trackers/); a name without a slash is searched in "
		     "$PATH"),
	FIELD(struct log_conf, exec_timeout, .init = "300", .min = 0.1, .max = 1e6, .unit = "s",
	      .doc = "how long that program may read nothing before it is told nothing more"),
	FIELD(struct log_conf, exec_wait, .init = "30", .min = 0, .max = 1e6, .unit = "s",
	      .doc = "how long it may take to finish when the run has ended"),
	FIELD_END
};

/* What is the same for all stages. */
static const char *const common[] = { "metrics_port", "metrics_host", "exec", "exec_timeout", "exec_wait" };
#define COMMON (sizeof common / sizeof *common)

void log_store_stage(struct conf_node *out, const struct log_conf *c, const char *section)
{
	struct conf_node *tree = conf_empty();

	conf_store(tree, c, log_fields, "log");
	struct conf_node *log = conf_copy(tree, "log");
	for (size_t i = 0; i < COMMON; i++)
		conf_remove(log, common[i]);
	conf_put(out, section, log);
	conf_node_free(tree);
}

int log_check_stage(const struct conf_node *tree, const char *section, struct err *e)
{
	int ret = 0;

	for (size_t i = 0; i < COMMON && !ret; i++) {
		char *key = mem_printf("%s.log.%s", section, common[i]);
		const char *where = conf_where(tree, key);

		if (*where)
			ret = err_set(e,
				      "%s: %s: a stage cannot have this key, which is the same for all "
				      "stages",
				      where, key);
		free(key);
	}
	return ret;
}
