/* tokenizer.c -- a folder's own tokenizer. */
#include "models/text/tokenizer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* One of them is open. */
struct tokenizer {
	struct clip_tokenizer *clip;
	struct t5_tokenizer *t5;
	struct bert_tokenizer *bert;
	struct qwen_tokenizer *qwen;
	struct gemma_tokenizer *gemma;
};

enum kind { CLIP, T5, BERT, QWEN, GEMMA };

/* model.type of tokenizer.json; of those that are BPE, CLIP's marks the ends of words, and Gemma's has bytes
 * to fall back on. */
static int ask_json(enum kind *kind, const char *path, struct err *e)
{
	static const char *const types[] = { [CLIP] = "BPE", [T5] = "Unigram", [BERT] = "WordPiece" };
	json_t *o = json_read(path, e);
	const json_t *model = json_object_get(o, "model");
	const char *type = json_string_value(json_object_get(model, "type"));
	const char *end = json_string_value(json_object_get(model, "end_of_word_suffix"));
	bool bytes = json_is_true(json_object_get(model, "byte_fallback"));
	int ret = -1;

	for (int i = CLIP; i <= BERT && type; i++)
		if (!strcmp(type, types[i])) {
			*kind = i != CLIP || (end && *end) ? (enum kind)i : bytes ? GEMMA : QWEN;
			ret = 0;
		}
	if (o && ret)
		err_set(e, "%s: model.type is %s, wanted BPE, Unigram or WordPiece", path,
			type ? type : "missing");
	json_decref(o);
	return ret;
}

/* The class of transformers that tokenizer_config.json names, "Fast" or not.  False: none that is known. */
static bool ask_class(enum kind *kind, const char *dir)
{
	static const char *const classes[] = { [CLIP] = "CLIPTokenizer",
					       [T5] = "T5Tokenizer",
					       [BERT] = "BertTokenizer",
					       [QWEN] = "Qwen2Tokenizer",
					       [GEMMA] = "GemmaTokenizer" };
	char *path = file_join(dir, "tokenizer_config.json");
	struct err ignored; /* whoever reads the file for its contents says what is wrong with it */
	json_t *o = file_exists(path) ? json_read(path, &ignored) : NULL;
	const char *name = json_string_value(json_object_get(o, "tokenizer_class"));
	bool found = false;

	for (int i = CLIP; i <= GEMMA && name; i++)
		if (text_starts(name, classes[i]) &&
		    (!name[strlen(classes[i])] || !strcmp(name + strlen(classes[i]), "Fast"))) {
			*kind = (enum kind)i;
			found = true;
		}
	json_decref(o);
	free(path);
	return found;
}

static int find_kind(enum kind *kind, const char *dir, struct err *e)
{
	static const char *const file[] = { "spiece.model", "vocab.json", "vocab.txt" };
	static const enum kind of[] = { T5, CLIP, BERT };
	char *path;
	int ret;

	if (ask_class(kind, dir))
		return 0;
	for (int i = 0; i < 3; i++) {
		path = file_join(dir, file[i]);
		bool there = file_exists(path);
		free(path);
		*kind = of[i];
		if (there)
			return 0;
	}
	path = file_join(dir, "tokenizer.json");
	ret = file_exists(path)
		  ? ask_json(kind, path, e)
		  : err_set(e,
			    "%s: no tokenizer (vocab.json and merges.txt, spiece.model, vocab.txt or "
			    "tokenizer.json) in this folder",
			    dir);
	free(path);
	return ret;
}

int tokenizer_open(struct tokenizer **out, const char *dir, struct err *e)
{
	struct tokenizer *t = mem_zero(1, sizeof *t);
	enum kind kind = CLIP;
	int ret = find_kind(&kind, dir, e);

	if (!ret && kind == CLIP)
		ret = clip_tokenizer_open(&t->clip, dir, e);
	else if (!ret && kind == T5)
		ret = t5_tokenizer_open(&t->t5, dir, e);
	else if (!ret && kind == QWEN)
		ret = qwen_tokenizer_open(&t->qwen, dir, e);
	else if (!ret && kind == GEMMA)
		ret = gemma_tokenizer_open(&t->gemma, dir, e);
	else if (!ret)
		ret = bert_tokenizer_open(&t->bert, dir, e);
	if (ret)
		free(t);
	else
		*out = t;
	return ret;
}

void tokenizer_close(struct tokenizer *t)
{
	if (!t)
		return;
	clip_tokenizer_close(t->clip);
	t5_tokenizer_close(t->t5);
	bert_tokenizer_close(t->bert);
	qwen_tokenizer_close(t->qwen);
	gemma_tokenizer_close(t->gemma);
	free(t);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, int64_t length, int64_t *ids, struct err *e)
{
	if (t->clip)
		return clip_tokenizer_encode(t->clip, text, length, ids, e);
	if (t->t5)
		return t5_tokenizer_encode(t->t5, text, length, ids, e);
	if (t->qwen)
		return qwen_tokenizer_encode(t->qwen, text, length, ids, NULL, e);
	if (t->gemma)
		return gemma_tokenizer_encode(t->gemma, text, length, ids, NULL, e);
	return bert_tokenizer_encode(t->bert, text, length, ids, e);
}
