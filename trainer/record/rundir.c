#include "trainer/record/rundir.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

static int make_dirs(struct trainer *t, bool resume, struct err *e)
{
	char *samples = file_join(t->dir, "samples"), *metrics = file_join(t->dir, "metrics.jsonl"),
	     *config = file_join(t->dir, "config.yaml"), *log = file_join(t->dir, "log.txt");
	struct conf_node *tree = conf_empty();
	struct text text = { 0 };
	int ret = 0;

	if (!resume && file_exists(metrics))
		ret = err_set(e, "%s already holds a run: --resume continues it, --run DIR starts another",
			      t->dir);
	if (!ret)
		ret = file_mkdirs(samples, e);
	if (!ret) {
		experiment_store(t->file, tree);
		conf_emit(&text, tree);
		ret = file_write(config, text.s, text.n, e);
	}
	if (!ret)
		ret = log_file(log, e);
	text_free(&text);
	conf_node_free(tree);
	free(samples);
	free(metrics);
	free(config);
	free(log);
	return ret;
}

char *rundir_path(const struct experiment *x, const char *run)
{
	return run ? mem_str(run) : file_join("runs", x->run.name);
}

int rundir_open(struct trainer *t, const char *run, bool resume, struct err *e)
{
	bool found = false;
	int ret = 0;

	t->dir = rundir_path(t->file, run);
	if (t->dist->rank == 0)
		ret = make_dirs(t, resume, e);
	if (dist_agree(t->dist, ret, e))
		return -1;
	alive_advice("there is no checkpoint in %s yet", t->dir);
	if (resume && checkpoint_resume(t, &found, e))
		return -1;
	if (t->at.stage != t->entered && trainer_enter(t, t->at.stage, e))
		return -1;
	if (t->dist->rank == 0) {
		if (found)
			log_info("resuming at step %lld", (long long)t->at.step);
		else if (resume)
			log_info("%s has no checkpoint yet: starting from the beginning", t->dir);
		ret = metrics_open(&t->metrics, t->dir, t->at.step, found ? t->at.rows : 0,
				   t->x->log.tensorboard, e);
		t->at.rows = ret ? 0 : metrics_rows(t->metrics);
	}
	return dist_agree(t->dist, ret, e);
}
