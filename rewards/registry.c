#include "rewards/reward.h"
#include "base/text.h"
#include <string.h>

extern const struct reward_type reward_geneval, reward_ocr, reward_clipscore, reward_pickscore, reward_hpsv2,
    reward_aesthetic, reward_script, reward_plugin, reward_http, reward_openai, reward_exec,
    reward_jpeg_compressibility, reward_jpeg_incompressibility, reward_caller;

const struct reward_type *const reward_types[] = {
	&reward_geneval,
	&reward_ocr,
	&reward_clipscore,
	&reward_pickscore,
	&reward_hpsv2,
	&reward_aesthetic,
	&reward_script,
	&reward_plugin,
	&reward_http,
	&reward_openai,
	&reward_exec,
	&reward_jpeg_compressibility,
	&reward_jpeg_incompressibility,
	&reward_caller,
	NULL,
};

enum { TYPES = sizeof reward_types / sizeof *reward_types };

const struct reward_type *reward_find(const char *name, struct err *e)
{
	const char *names[TYPES] = { NULL };
	struct text list = { 0 };

	for (int i = 0; reward_types[i]; i++) {
		names[i] = reward_types[i]->name;
		if (!strcmp(names[i], name))
			return reward_types[i];
	}
	for (int i = 0; names[i]; i++)
		text_printf(&list, "%s%s", i ? ", " : "", names[i]);
	const char *near = text_nearest(name, names);
	err_set(e, "no reward is called '%s'%s%s%s (there are %s)", name, near ? "; did you mean '" : "",
		near ? near : "", near ? "'?" : "", list.s);
	text_free(&list);
	return NULL;
}
