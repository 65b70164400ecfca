/* cmd_train.c -- contraflow train CONFIG, and what replay shares with it */
#include "base/alive.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/options.h"
#include "trainer/reward_ranks.h"
#include "trainer/record/rundir.h"
#include "dist/startup.h"
#include "trainer/trainer.h"
#include <stdlib.h>
#include <string.h>

/* For a reward rank: the rewards of stage `set`. */
static int open_set(void *ctx, struct mixture **m, int set, struct err *e)
{
	struct experiment stage;

	if (experiment_stage(&stage, ctx, set, e))
		return -1;
	int ret = mixture_open(m, stage.tree, 1, e);
	experiment_release(&stage);
	return ret;
}

/* What the command line says. */
struct request {
	const char *config, *dir; /* NULL: not given */
	enum rundir_want want;
	const struct option_list *set;
	const char *words;          /* version and command line */
	const char *const *archive; /* of a replay; NULL: images are sampled */
	int archives;
	int64_t metrics_port; /* OPTION_UNSET: the configuration's */
};

static int train_in(struct rundir *r, struct dist *d, struct experiment *x, const char *words,
		    const struct archives *archives, struct live *live, struct err *e)
{
	struct trainer t;
	int64_t stage = r->resumes ? checkpoint_stage(r->path, d) : 0;

	stage = stage < 0 || stage >= experiment_stages(x) ? 0 : stage; /* rundir_open refuses it */
	if (trainer_open(&t, x, d, stage, r->resumes ? r->path : NULL, archives, NULL, e))
		return -1;
	t.live = live;
	int ret = rundir_open(&t, r, words, e);
	if (!ret)
		ret = trainer_run(&t, e);
	trainer_close(&t);
	return ret;
}

static int train(struct dist *d, struct experiment *x, const struct request *q, struct err *e)
{
	char *path = rundir_path(x, q->dir);
	struct rundir r;
	int ret = rundir_claim(&r, path, q->want, d, e);

	if (!ret) {
		if (d->rank == 0 && q->want == RUNDIR_AUTO && !r.resumes)
			log_info("%s holds no run yet: starting afresh", r.path);
		struct archives archives = { 0 };
		struct live *live = NULL;

		ret = dist_agree(d, d->rank == 0 ? live_open(&live, x, e) : 0, e);
		if (!ret)
			ret = q->archive ? archives_open(&archives, d, q->archive, q->archives, e) : 0;
		if (!ret)
			ret = train_in(&r, d, x, q->words, q->archive ? &archives : NULL, live, e);
		live_close(live, !ret ? "finished" : stop_asked() ? "stopped" : "failed", ret ? e->msg : "");
		archives_free(&archives);
		log_note("%s%s",
			 !ret           ? "came to its end"
			 : stop_asked() ? "ended early: "
					: "ended by an error: ",
			 ret ? e->msg : "");
	}
	rundir_release(&r);
	free(path);
	reward_ranks_dismiss(d);
	return ret;
}

/* The run's own configuration, which rank 0 reads for all.  Collective. */
static int read_own(struct experiment *x, struct dist *d, const struct request *q, struct err *e)
{
	char *path = file_join(q->dir, "config.yaml"), *text = NULL;
	size_t size = 0;
	int ret = 0;

	if (d->rank == 0 && !rundir_holds_run(q->dir))
		ret = err_set(e,
			      "--resume: %s holds no run; is the name right? Name a configuration to begin "
			      "one",
			      q->dir);
	else if (d->rank == 0)
		ret = file_read(&text, &size, path, e);
	if (!(ret = dist_agree(d, ret, e))) {
		dist_broadcast(d, &size, sizeof size, 0);
		text = text ? text : mem_alloc(size);
		dist_broadcast(d, text, size, 0);
		ret = dist_agree(d, experiment_read_text(x, text, size, path, q->set->v, q->set->n, e), e);
	}
	free(text);
	free(path);
	return ret;
}

/* What a replay cannot have. */
static int check_replay(const struct experiment *x, struct err *e)
{
	if (x->n_stages)
		return err_set(
		    e, "replay: the configuration has stages, and archives do not say whose they are");
	if (x->ranks.reward)
		return err_set(e, "replay: ranks.reward = %lld: nothing is scored, leave it out",
			       (long long)x->ranks.reward);
	return 0;
}

/* A reward rank, whose end is told in the run's log. */
static void serve(struct dist *d, struct experiment *x, const struct request *q)
{
	char *path = rundir_path(x, q->dir), *log = file_join(path, "log.txt");

	log_end_in(log);
	reward_ranks_serve(d, &(struct remote_sets) { x, open_set }, x->run.device);
	free(log);
	free(path);
}

static int read_and_train(struct dist *d, const struct request *q, struct err *e)
{
	struct experiment x;
	int ret;

	if (q->config ? dist_agree(d, experiment_read(&x, q->config, q->set->v, q->set->n, e), e)
		      : read_own(&x, d, q, e))
		return -1;
	if (dist_same(d, experiment_hash(&x), "the configuration",
		      e) || /* machines with disks of their own */
	    (q->archive && check_replay(&x, e))) {
		experiment_release(&x);
		return -1;
	}
	if (q->metrics_port != OPTION_UNSET)
		x.log.metrics_port = q->metrics_port;
	dist_watch(x.run.timeout);
	stop_after(x.run.max_seconds);
	stop_set_code((int)x.run.requeue_code);
	at_set_deterministic(x.run.deterministic); /* judges as well, wherever they are */
	ret = startup_threads(d, x.run.threads, e) || reward_ranks_split(d, x.ranks.reward, "ranks.reward", e)
		  ? -1
		  : 0;
	alive_advice("--resume goes on from the run's newest checkpoint, if there is one");
	if (!ret && d->serves)
		serve(d, &x, q);
	else if (!ret)
		ret = train(d, &x, q, e);
	experiment_release(&x);
	log_close();
	return ret;
}

int train_one(struct dist *d, const char *config, const char *dir, const struct option_list *set,
	      const char *words, struct err *e)
{
	const struct request q = { .config = config,
				   .dir = dir,
				   .want = RUNDIR_AUTO,
				   .set = set,
				   .words = words,
				   .metrics_port = OPTION_UNSET };

	return read_and_train(d, &q, e);
}

/* The words of `resume`, NULL without the option. */
static int want_of(enum rundir_want *want, const char *command, const char *resume, struct err *e)
{
	*want = !resume ? RUNDIR_NEW : !*resume ? RUNDIR_RESUME : RUNDIR_AUTO;
	if (*want == RUNDIR_AUTO && strcmp(resume, "auto"))
		return err_set(e,
			       "%s: --resume=%s: there are --resume, which wants a run in the directory, "
			       "and --resume=auto",
			       command, resume);
	return 0;
}

char *train_words(const char *command, int argc, char **argv)
{
	struct text t = { 0 };

	text_printf(&t, "contraflow %s (libtorch %s%s): %s", version(), at_version(),
		    at_cuda_built() ? ", CUDA" : "", command);
	for (int i = 0; i < argc; i++) {
		bool plain = *argv[i] && !strpbrk(argv[i], " \t\n\"'\\$*?;&|<>()[]{}#!`");
		text_printf(&t, plain ? " %s" : " '%s'", argv[i]);
	}
	return t.s;
}

/* Positional words: a configuration, and for a replay the archives. */
#define MOST_WORDS 65536

static int parse(const struct command *c, struct request *q, bool *quiet, struct option_list *set,
		 const char **word, int argc, char **argv, struct err *e)
{
	const char *resume = NULL;
	const struct option_spec spec[] = {
		{ "run", 's', &q->dir, "DIR", "the run directory (default: runs/NAME of the configuration)" },
		{ "resume", 'v', &resume, "auto",
		  "continue the directory's run from its newest checkpoint; auto: or begin one" },
		{ "set", 'm', set, "KEY=VALUE", "override a key of the configuration; may be repeated" },
		{ "metrics-port", 'i', &q->metrics_port, "PORT",
		  "answer Prometheus at http://127.0.0.1:PORT/metrics (log.metrics_host: elsewhere); 0: any "
		  "free port, which is printed" },
		{ "quiet", 'f', quiet, NULL, "print only warnings and the result" },
		{ NULL, 0, NULL, NULL, NULL }
	};
	bool replay = c == &cmd_replay;
	int n, ret = options_parse(c, spec, argc, argv, word, replay ? MOST_WORDS : 1, &n, e);

	if (ret || (ret = want_of(&q->want, c->name, resume, e)))
		return ret;
	if (q->metrics_port != OPTION_UNSET && (q->metrics_port < 0 || q->metrics_port > 65535))
		return err_set(e, "%s: --metrics-port %lld: must be in [0, 65535]", c->name,
			       (long long)q->metrics_port);
	if (replay && n < 2)
		return err_set(e, "replay: name a configuration and archives; usage: contraflow replay %s",
			       c->usage);
	if (n < 1 && (q->want == RUNDIR_NEW || !q->dir))
		return err_set(
		    e,
		    "train: name a configuration, or with --resume the run's directory (--run DIR); "
		    "usage: contraflow train %s",
		    c->usage);
	q->config = n ? word[0] : NULL;
	q->archive = replay ? word + 1 : NULL;
	q->archives = replay ? n - 1 : 0;
	q->set = set;
	return 0;
}

int train_command(const struct command *c, int argc, char **argv, struct err *e)
{
	bool quiet = false;
	struct option_list set = { .n = 0 };
	struct request q = { .metrics_port = OPTION_UNSET };
	const char **word = mem_zero(MOST_WORDS, sizeof *word);
	struct dist d;
	int ret = parse(c, &q, &quiet, &set, word, argc, argv, e);

	if (!ret)
		stop_open(false); /* MPI may take its time to start */
	if (!ret && !(ret = startup_open(&d, STARTUP_RANKS, e))) {
		stop_open(d.rank == 0);
		log_quiet(quiet);
		char *words = train_words(c->name, argc, argv);
		q.words = words;
		ret = read_and_train(&d, &q, e);
		free(words);
		ret = startup_close(&d, ret, e);
	}
	free(word);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	return train_command(&cmd_train, argc, argv, e);
}

const struct command cmd_train = { "train", "[CONFIG] [--run DIR] [--resume[=auto]] [--set KEY=VALUE ...]",
				   "train a LoRA adapter with online RL", run };
