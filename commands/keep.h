/* keep.h -- images that stay, and what they say of themselves: of sample, and of eval with --save. */
#ifndef KEEP_H
#define KEEP_H
#include "commands/session.h"
#include "trainer/evaluation/album.h"

/* The rows of an option table that fill a struct keep k; `name` is the option's. */
#define KEEP_OPTIONS(k, name, what)                                                                          \
	{ name, 's', &(k).dir, "DIR", what },                                                                \
	{                                                                                                    \
		"layout", 's', &(k).layout, "NAME",                                                          \
		    "flat (DIR/00000-0000.png and its prompt) or geneval "                                   \
		    "(DIR/00000/samples/0000.png and DIR/00000/metadata.jsonl); "                            \
		    "default: flat"                                                                          \
	}
struct keep {
	const char *dir, *layout; /* NULL: not given */
	enum album_layout as;
};
/* What was given makes sense; fills k->as. */
int keep_check(struct keep *k, const char *command, struct err *e);

/* What images are made of: model, adapter, settings, version, seed; with `hashes` of the model's weights,
 * which are read for it.  NULL on error. */
json_t *keep_how(const struct session_settings *o, const struct session *s, int64_t seed, bool hashes,
		 struct err *e);
/* Collective.  `noise` names whose noise the images are from: sample's and eval's differ. */
int keep_open(struct album *a, struct dist *d, const struct keep *k, const struct session *s,
	      const struct session_settings *o, const struct prompts *p, int64_t per, int64_t seed,
	      const char *noise, struct err *e);
/* Where everything is, on standard output. */
void keep_say(const struct album *a);

#endif
