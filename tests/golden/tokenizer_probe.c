/*
 * tokenizer_probe.c -- golden_tokenizer FOLDER LENGTH PROMPTS [open_clip]: the ids of each prompt of a JSON
 * list, a line of JSON each; those of CLIP as open_clip cuts them.
 */
#include "base/json.h"
#include "base/mem.h"
#include "models/text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>

static void need(int failed, const struct err *e)
{
	if (failed)
		die("%s", e->msg);
}

int main(int argc, char **argv)
{
	int64_t length = argc == 4 || argc == 5 ? atoll(argv[2]) : 0;
	struct clip_tokenizer *clip = NULL;
	struct tokenizer *t = NULL;
	const json_t *prompt;
	struct err e;
	size_t i;

	if (length < 2)
		die("golden_tokenizer: FOLDER LENGTH PROMPTS [open_clip]");
	need(argc == 5 ? clip_tokenizer_open(&clip, argv[1], &e) : tokenizer_open(&t, argv[1], &e), &e);
	json_t *list = json_read(argv[3], &e);
	need(!list, &e);
	int64_t *ids = mem_zero((size_t)length, sizeof *ids);
	json_array_foreach(list, i, prompt)
	{
		const char *text = json_string_value(prompt);
		need(clip ? clip_tokenizer_encode_open(clip, text, length, ids, &e)
			  : tokenizer_encode(t, text, length, ids, &e),
		     &e);
		for (int64_t k = 0; k < length; k++)
			printf("%s%lld", k ? "," : "[", (long long)ids[k]);
		puts("]");
	}
	free(ids);
	json_decref(list);
	tokenizer_close(t);
	clip_tokenizer_close(clip);
	return 0;
}
