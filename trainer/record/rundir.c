#include "trainer/record/rundir.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/record/checkpoints.h"
#include "trainer/prompt_sets.h"
#include "trainer/record/inputs.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LEAST_ROOM 1048576 /* bytes, for a run whose checkpoints have no size yet */

char *rundir_path(const struct experiment *x, const char *run)
{
	return run ? mem_str(run) : file_join("runs", x->run.name);
}

bool rundir_holds_run(const char *path)
{
	struct err ignored;
	bool failed;
	char *dir = checkpoints_newest(path, &failed, &ignored);
	bool yes = dir || failed || file_is_in(path, "metrics.jsonl");

	free(dir);
	return yes;
}

/* ---- Claimed --------------------------------------------------------------------------------- */

/* Makes it, and remembers which of its folders were not there. */
static int make_folder(struct rundir *r, struct err *e)
{
	char *missing = mem_str(r->path);

	while (!file_exists(missing)) {
		free(r->made);
		r->made = missing;
		missing = file_dir(missing);
	}
	free(missing);
	return file_mkdirs(r->path, e);
}

/* The empty folders that were made, from the innermost out. */
static void unmake_folder(struct rundir *r)
{
	char *dir = mem_str(r->path);

	while (strlen(dir) >= strlen(r->made) && (!io_rmdir(dir) || errno == ENOENT)) {
		char *above = file_dir(dir);
		free(dir);
		dir = above;
	}
	free(dir);
}

/* What a run writes into, where it is there. */
static int check_writable(const char *path, struct err *e)
{
	static const char *const names[] = { "",
					     "checkpoints",
					     "samples",
					     "tensorboard",
					     "log.txt",
					     "metrics.jsonl",
					     "config.yaml",
					     "rollouts",
					     "checkpoints/latest" };
	int ret = 0;

	for (size_t i = 0; i < sizeof names / sizeof *names && !ret; i++) {
		char *inner = *names[i] ? file_join(path, names[i]) : mem_str(path);
		if (file_exists(inner) && access(inner, file_is_dir(inner) ? W_OK | X_OK : W_OK))
			ret = err_set(e, "cannot write %s: %s", inner, strerror(errno));
		free(inner);
	}
	return ret;
}

static double size_of(const char *path)
{
	struct stat st;
	DIR *d = opendir(path);
	double sum = 0;

	for (struct dirent *x; d && (x = readdir(d));) {
		if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, ".."))
			continue;
		char *inner = file_join(path, x->d_name);
		if (!lstat(inner, &st))
			sum += S_ISDIR(st.st_mode) ? size_of(inner) : (double)st.st_size;
		free(inner);
	}
	if (d)
		closedir(d);
	return sum;
}

/* Bytes; none where there is no inode for a file.  False: the file system does not tell. */
static bool room_of(const char *path, double *room)
{
	struct statvfs v;

	if (statvfs(path, &v))
		return false;
	*room = v.f_files && !v.f_favail ? 0 : (double)v.f_bavail * (double)v.f_frsize;
	return true;
}

/* A checkpoint is written before an older one goes. */
static int check_room(const char *path, struct err *e)
{
	struct err ignored;
	char has[32], needs[32];
	bool failed;
	char *newest = checkpoints_newest(path, &failed, &ignored);
	double need = newest ? size_of(newest) : 0;

	free(newest);
	need = need > LEAST_ROOM ? need : LEAST_ROOM;
	double room;
	if (!room_of(path, &room) || room >= need)
		return 0;
	return err_set(e, "%s: %s of room is left, and a checkpoint takes %s: free some space", path,
		       text_size(has, room), text_size(needs, need));
}

static int claim(struct rundir *r, enum rundir_want want, struct err *e)
{
	if (want == RUNDIR_RESUME && !file_exists(r->path))
		return err_set(
		    e,
		    "--resume: there is no %s; is the name right? (--resume=auto begins a run where "
		    "there is none)",
		    r->path);
	if (make_folder(r, e) || runlock_take(&r->lock, r->path, e))
		return -1;
	r->resumes = rundir_holds_run(r->path);
	if (want == RUNDIR_NEW && r->resumes)
		return err_set(e, "%s already holds a run: --resume continues it, --run DIR starts another",
			       r->path);
	if (want == RUNDIR_RESUME && !r->resumes)
		return err_set(
		    e,
		    "--resume: %s holds no run; is the name right? (--resume=auto begins one where "
		    "there is none)",
		    r->path);
	return check_writable(r->path, e) || check_room(r->path, e) ? -1 : 0;
}

int rundir_claim(struct rundir *r, const char *path, enum rundir_want want, struct dist *d, struct err *e)
{
	*r = (struct rundir) { .path = mem_str(path), .lock = { .fd = -1 } };
	while (strlen(r->path) > 1 && text_ends(r->path, "/"))
		r->path[strlen(r->path) - 1] = '\0';
	int ret = dist_agree(d, d->rank == 0 ? claim(r, want, e) : 0, e);

	dist_broadcast(d, &r->resumes, sizeof r->resumes, 0);
	return ret;
}

void rundir_release(struct rundir *r)
{
	if (r->path && r->lock.path)
		runlock_drop(&r->lock, !r->begun);
	if (r->made && !r->begun)
		unmake_folder(r);
	free(r->path);
	free(r->made);
	*r = (struct rundir) { .lock = { .fd = -1 } };
}

/* ---- The configuration, and what it was before ----------------------------------------------- */

static struct conf_node *stored(const struct experiment *x)
{
	struct conf_node *tree = conf_empty();

	experiment_store(x, tree);
	return tree;
}

/* The run's configuration so far with the keys and defaults of this version, or as it is where this version
 * cannot read it. */
static struct conf_node *earlier(const char *path, struct err *e)
{
	struct experiment x;
	struct err ignored;

	if (experiment_read(&x, path, NULL, 0, &ignored))
		return conf_read(path, e);
	struct conf_node *tree = stored(&x);
	experiment_release(&x);
	return tree;
}

static void say_change(void *ctx, const char *key, const char *was, const char *is)
{
	(void)ctx;
	log_info("  %s %s -> %s", key, was ? was : "(not there)", is ? is : "(not there)");
}

static void count_change(void *ctx, const char *key, const char *was, const char *is)
{
	(void)ctx, (void)key, (void)was, (void)is;
}

/* config.yaml under a name that tells until when it held; one that is there already stays. */
static int keep_earlier(const struct trainer *t, const char *config, struct err *e)
{
	char *data, *path = mem_printf("%s/config-until-%08lld.yaml", t->dir, (long long)t->at.step);
	size_t n;

	for (int i = 2; file_exists(path); i++) {
		free(path);
		path = mem_printf("%s/config-until-%08lld-%d.yaml", t->dir, (long long)t->at.step, i);
	}
	int ret = file_read(&data, &n, config, e);
	if (!ret) {
		ret = file_write(path, data, n, e);
		free(data);
		log_info("the run's settings change here; those until now are kept in %s:", path);
	}
	free(path);
	return ret;
}

int rundir_write_config(const struct trainer *t, struct err *e)
{
	char *config = file_join(t->dir, "config.yaml");
	struct conf_node *now = stored(t->file), *was = NULL;
	struct text text = { 0 };
	struct err why;
	int ret = 0;

	if (file_exists(config) && !(was = earlier(config, &why)))
		log_warn("what this run was set to before cannot be told: %s", why.msg);
	if (was && conf_compare(was, now, count_change, NULL)) {
		ret = keep_earlier(t, config, e);
		conf_compare(was, now, say_change, NULL);
	}
	conf_emit(&text, now);
	if (!ret)
		ret = file_write(config, text.s, text.n, e);
	text_free(&text);
	conf_node_free(was);
	conf_node_free(now);
	free(config);
	return ret;
}

/* ---- Begun ----------------------------------------------------------------------------------- */

static void note_setting(void *ctx, const char *key, const char *was, const char *is)
{
	(void)ctx, (void)was;
	if (is)
		log_note("  %s %s", key, is);
}

struct conf_node *rundir_defaults(const struct conf_node *resolved)
{
	struct conf_node *tree = conf_empty(), *out = NULL;
	struct experiment bare = { 0 };
	struct err ignored;

	conf_put(tree, "model.path", conf_copy(resolved, "model.path"));
	conf_put(tree, "prompts.train", conf_copy(resolved, "prompts.train"));
	if (conf_is_section(resolved, "prompts.sets"))
		conf_put(tree, "prompts.sets", conf_copy(resolved, "prompts.sets"));
	if (!experiment_from(&bare, tree, &ignored)) {
		out = stored(&bare);
		experiment_release(&bare);
	}
	conf_node_free(tree);
	return out;
}

/* What is not as it would be if nobody had said anything. */
static void note_settings(const struct experiment *x)
{
	struct conf_node *now = stored(x), *defaults = rundir_defaults(now);

	if (defaults) {
		conf_remove(now, "stages");
		log_note("settings (others have their defaults%s):",
			 x->n_stages ? "; those of stages are in config.yaml" : "");
		log_note("  model.path %s", x->model.path);
		if (!x->n_sets)
			log_note("  prompts.train %s", x->prompts.train);
		for (int i = 0; i < x->n_sets; i++)
			log_note("  prompts.sets.%s weight %g, train %s, test %s", x->set[i].name,
				 x->set[i].weight, x->set[i].train, x->set[i].test);
		conf_compare(defaults, now, note_setting, NULL);
	}
	conf_node_free(defaults);
	conf_node_free(now);
}

static void note_start(const struct trainer *t, const struct rundir *r, const char *command)
{
	char host[64] = "";

	gethostname(host, sizeof host - 1);
	log_note("%s", command);
	log_note("pid %ld on %s, rank 0 of %d", (long)getpid(), host, t->dist->ranks);
	/* five vectors of the adapter's size, and one once more as its file */
	double room, need = 6.0 * 4.0 * (double)t->policies.theta.numel;
	char has[32], needs[32];
	if (room_of(t->dir, &room) && room < need)
		log_warn("%s of room is left in %s, and a checkpoint may take %s", text_size(has, room),
			 t->dir, text_size(needs, need));
	if (*r->lock.before)
		log_info("%s did not come to an end in this run", r->lock.before);
	note_settings(t->file);
}

/* Of writes that a kill cut short, by the names that a run writes. */
static void sweep(const char *dir)
{
	static const struct {
		const char *folder, *names[5];
	} written[] = { { "", { "config", "metrics.jsonl", "result", NULL } },
			{ "checkpoints", { "latest", NULL } },
			{ "samples", { "step-", NULL } },
			{ "rollouts", { "epoch-", NULL } } };

	for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
		char *folder = file_join(dir, written[i].folder);
		file_sweep(folder, written[i].names);
		free(folder);
	}
}

/* Of rank 0, when nothing is left that could refuse the run. */
static int begin(struct trainer *t, struct rundir *r, bool found, const char *command, struct err *e)
{
	char *samples = file_join(t->dir, "samples"), *log = file_join(t->dir, "log.txt"),
	     *checkpoints = file_join(t->dir, "checkpoints");
	json_t *inputs = inputs_hash(t->file);

	if (t->archives)
		inputs_add(inputs, "archives", t->archives->hash);
	r->begun = true;
	sweep(t->dir);
	int ret = checkpoints_sweep(checkpoints, e) || file_mkdirs(samples, e) || log_file(log, e) ? -1 : 0;
	if (!ret) {
		note_start(t, r, command);
		if (found)
			log_info("resuming at step %lld", (long long)t->at.step);
		else if (r->resumes)
			log_info("%s has no checkpoint yet: starting from the beginning", t->dir);
		inputs_say(t->inputs, inputs);
		ret = rundir_write_config(t, e) ||
			      metrics_open(&t->metrics, t->dir, t->at.step, found ? t->at.rows : 0,
					   t->x->log.tensorboard, e)
			  ? -1
			  : 0;
		t->at.rows = ret ? 0 : metrics_rows(t->metrics);
		if (!ret && t->live && !(ret = live_begin(t->live, t->dir, found, t->at.step, e)))
			metrics_listen(t->metrics, live_row, t->live);
	}
	json_decref(t->inputs);
	t->inputs = inputs;
	free(samples);
	free(log);
	free(checkpoints);
	return ret;
}

int rundir_open(struct trainer *t, struct rundir *r, const char *command, struct err *e)
{
	bool found = false;

	t->dir = mem_str(r->path);
	alive_advice("there is no checkpoint in %s yet", t->dir);
	if (r->resumes && checkpoint_resume(t, &found, e))
		return -1;
	if (t->at.stage != t->entered && trainer_enter(t, t->at.stage, e))
		return -1;
	if (dist_agree(t->dist, t->dist->rank == 0 ? begin(t, r, found, command, e) : 0, e))
		return -1;
	if (t->dist->rank != 0) {
		char *log = file_join(t->dir, "log.txt");
		log_end_in(log);
		free(log);
	}
	return 0;
}
