/*
 * prompt_sets.h -- the prompts of an experiment: one file to train on and one that is held out, or several
 * sets with a file each, a weight and rewards of their own (`prompts.sets`).
 *
 * What a set's rewards are is the mixture's to read (mixture_sets.c): both know the sets by their order in
 * the file.
 */
#ifndef PROMPT_SETS_H
#define PROMPT_SETS_H
#include "data/prompts.h"
#include "trainer/experiment.h"

struct prompt_set_conf {
	char *train, *test;
	double weight;
	bool by_tag;
	const char *name; /* the tree's */
};
extern const struct field prompt_set_fields[];

/* For experiment.c: what the tree says of sets, beside x->prompts, which is read. */
int prompt_sets_fill(struct experiment *x, struct err *e);
void prompt_sets_release(struct experiment *x);
void prompt_sets_store(const struct experiment *x, struct conf_node *out, const char *section);
/* A stage's prompts take the place of the file's: sets of one file, and one file of sets.  `over` is the
 * name of the stage's section. */
void prompt_sets_replace(struct conf_node *out, const struct conf_node *tree, const char *over);

bool prompts_have_test(const struct experiment *x); /* something is held out */
/* All that is trained, or held out.  A set that holds nothing out is among the latter, with no prompts. */
int prompts_read_train(struct prompts *p, const struct experiment *x, struct err *e);
int prompts_read_test(struct prompts *p, const struct experiment *x, struct err *e);

#endif
