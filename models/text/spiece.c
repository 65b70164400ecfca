#include "models/text/spiece.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST    (1 << 24) /* pieces */
#define UNIGRAM 1         /* TrainerSpec.ModelType */

struct bytes {
	const uint8_t *p;
	size_t n;
};
struct piece {
	struct bytes text;
	float score;
};
struct spiece {
	struct piece *piece;
	int n, cap;
	int *slot; /* ids by hash, -1 where nobody is; a power of two of them */
	size_t slots;
	struct bytes table;
	json_t *json;        /* whose strings the pieces are; NULL */
	struct text decoded; /* the table, from base64 */
};

/* ---- Protocol buffers ---------------------------------------------------------------------------- */

struct value {
	uint64_t field, number; /* number: of a varint or of fixed bits */
	struct bytes bytes;     /* of what has a length */
	int wire;
};

static bool varint(struct bytes *b, uint64_t *v)
{
	*v = 0;
	for (int shift = 0; b->n && shift < 64; shift += 7) {
		uint8_t c = *b->p++;
		b->n--;
		*v |= (uint64_t)(c & 127) << shift;
		if (c < 128)
			return true;
	}
	return false;
}

static bool take(struct bytes *from, uint64_t n, struct bytes *out)
{
	if (n > from->n)
		return false;
	*out = (struct bytes) { from->p, (size_t)n };
	from->p += n;
	from->n -= (size_t)n;
	return true;
}

/* The next field of a message; false when it is broken. */
static bool next(struct bytes *message, struct value *v)
{
	uint64_t key, n;

	*v = (struct value) { 0 };
	if (!varint(message, &key))
		return false;
	v->field = key >> 3;
	v->wire = (int)(key & 7);
	switch (v->wire) {
	case 0:
		return varint(message, &v->number);
	case 1:
	case 5:
		if (!take(message, v->wire == 1 ? 8 : 4, &v->bytes))
			return false;
		for (size_t i = v->bytes.n; i-- > 0;)
			v->number = v->number << 8 | v->bytes.p[i];
		return true;
	case 2:
		return varint(message, &n) && take(message, n, &v->bytes);
	default: /* groups went out of use before there was sentencepiece */
		return false;
	}
}

/* ---- The model ----------------------------------------------------------------------------------- */

/* SentencePiece: piece = 1, score = 2, type = 3. */
static bool read_piece(struct bytes message, struct piece *p)
{
	struct value v;

	*p = (struct piece) { 0 };
	while (message.n) {
		if (!next(&message, &v))
			return false;
		if (v.field == 1 && v.wire == 2)
			p->text = v.bytes;
		if (v.field == 2 && v.wire == 5) {
			uint32_t bits = (uint32_t)v.number;
			memcpy(&p->score, &bits, sizeof bits);
		}
	}
	return p->text.n > 0;
}

/* ModelProto: pieces = 1, trainer_spec = 2 {model_type = 3}, normalizer_spec = 3 {precompiled_charsmap = 2}.
 */
static bool read_model(struct spiece *s, struct bytes message, uint64_t *type)
{
	struct value v, inner;

	while (message.n) {
		if (!next(&message, &v))
			return false;
		if (v.wire != 2)
			continue;
		if (v.field == 1) {
			struct piece p;

			if (s->n == MOST || !read_piece(v.bytes, &p))
				return false;
			MEM_PUSH(s->piece, s->n, s->cap) = p;
		}
		while ((v.field == 2 || v.field == 3) && v.bytes.n) {
			if (!next(&v.bytes, &inner))
				return false;
			if (v.field == 2 && inner.field == 3 && inner.wire == 0)
				*type = inner.number;
			if (v.field == 3 && inner.field == 2 && inner.wire == 2)
				s->table = inner.bytes;
		}
	}
	return s->n > 0;
}

static size_t place(const struct spiece *s, const void *piece, size_t n)
{
	return (size_t)file_hash(piece, n, 0) & (s->slots - 1);
}

static bool same(const struct piece *p, const void *piece, size_t n)
{
	return p->text.n == n && !memcmp(p->text.p, piece, n);
}

/* False when two pieces are equal. */
static bool index_pieces(struct spiece *s)
{
	s->slots = 16;
	while (s->slots < 2 * (size_t)s->n)
		s->slots *= 2;
	s->slot = mem_alloc(s->slots * sizeof *s->slot);
	for (size_t i = 0; i < s->slots; i++)
		s->slot[i] = -1;
	for (int id = 0; id < s->n; id++) {
		const struct piece *p = &s->piece[id];
		size_t at = place(s, p->text.p, p->text.n);

		for (; s->slot[at] >= 0; at = (at + 1) & (s->slots - 1))
			if (same(&s->piece[s->slot[at]], p->text.p, p->text.n))
				return false;
		s->slot[at] = id;
	}
	return true;
}

int spiece_open(struct spiece **out, const void *model, size_t n, const char *what, struct err *e)
{
	struct spiece *s = mem_zero(1, sizeof *s);
	uint64_t type = UNIGRAM;
	int ret = 0;

	if (!read_model(s, (struct bytes) { model, n }, &type))
		ret = err_set(e, "%s: not a sentencepiece model", what);
	else if (type != UNIGRAM)
		ret = err_set(e, "%s: only unigram models are supported, and this is none", what);
	else if (!index_pieces(s))
		ret = err_set(e, "%s: not a sentencepiece model: two of its pieces are equal", what);
	if (ret)
		spiece_close(s);
	else
		*out = s;
	return ret;
}

/* ---- tokenizer.json --------------------------------------------------------------------------------- */

static const json_t *member(const json_t *o, const char *a, const char *b)
{
	return json_object_get(json_object_get(o, a), b);
}

static bool is(const json_t *v, const char *word)
{
	return json_is_string(v) && !strcmp(json_string_value(v), word);
}

/* What decides how text is prepared and cut: nothing but T5's way is known. */
static int check_kind(const json_t *o, const char *what, struct err *e)
{
	const json_t *pre = json_object_get(o, "pre_tokenizer"),
		     *parts = json_object_get(pre, "pretokenizers"), *first = json_array_get(parts, 0),
		     *second = json_array_get(parts, 1), *scheme = json_object_get(second, "prepend_scheme"),
		     *split = json_object_get(second, "split");
	const json_t *normalizer = json_object_get(o, "normalizer");

	if (!is(member(o, "model", "type"), "Unigram") || json_is_true(member(o, "model", "byte_fallback")))
		return err_set(e, "%s: its model is not unigram pieces without bytes to fall back on", what);
	if (json_is_object(normalizer) && !is(json_object_get(normalizer, "type"), "Precompiled"))
		return err_set(e, "%s: its normalizer is not Precompiled", what);
	if (json_array_size(parts) != 2 || !is(json_object_get(first, "type"), "WhitespaceSplit") ||
	    !is(json_object_get(second, "type"), "Metaspace") ||
	    !is(json_object_get(second, "replacement"), "\xE2\x96\x81") ||
	    (scheme && !is(scheme, "always")) || json_is_false(split) ||
	    json_is_false(json_object_get(second, "add_prefix_space")))
		return err_set(e, "%s: its pre_tokenizer is not WhitespaceSplit and Metaspace, as T5's is",
			       what);
	return 0;
}

static int take_table(struct spiece *s, const json_t *o, const char *what, struct err *e)
{
	const json_t *map = member(o, "normalizer", "precompiled_charsmap");

	if (!json_is_string(map))
		return 0;
	if (!text_unbase64(&s->decoded, json_string_value(map), json_string_length(map)))
		return err_set(e, "%s: precompiled_charsmap is not base64", what);
	s->table = (struct bytes) { (const uint8_t *)s->decoded.s, s->decoded.n };
	return 0;
}

/* vocab: [[piece, score], ...]; the sentinels at its end fall to <extra_id_0>. */
static int take_pieces(struct spiece *s, const json_t *o, const char *what, int *sentinels, struct err *e)
{
	const json_t *vocab = member(o, "model", "vocab"), *row;
	char name[32];
	size_t n = json_array_size(vocab), i;

	for (*sentinels = 0; *sentinels < (int)n; ++*sentinels) {
		snprintf(name, sizeof name, "<extra_id_%d>", *sentinels);
		if (!is(json_array_get(json_array_get(vocab, n - 1 - (size_t)*sentinels), 0), name))
			break;
	}
	n -= (size_t)*sentinels;
	json_array_foreach((json_t *)(uintptr_t)vocab, i, row)
	{
		const json_t *piece = json_array_get(row, 0), *score = json_array_get(row, 1);

		if (i == n)
			break;
		if (!json_is_string(piece) || !json_string_length(piece) || !json_is_number(score) ||
		    s->n == MOST)
			return err_set(e, "%s: entry %zu of the vocabulary is not a piece and its score",
				       what, i);
		MEM_PUSH(s->piece, s->n, s->cap) =
		    (struct piece) { .text = { (const uint8_t *)json_string_value(piece),
					       json_string_length(piece) },
				     .score = (float)json_number_value(score) };
	}
	return s->n ? 0 : err_set(e, "%s: the vocabulary is empty", what);
}

int spiece_open_json(struct spiece **out, const char *text, size_t n, const char *what, int *sentinels,
		     struct err *e)
{
	struct spiece *s = mem_zero(1, sizeof *s);
	int ret = (s->json = json_parse(text, n, what, e)) ? 0 : -1;

	if (!ret)
		ret = check_kind(s->json, what, e) || take_table(s, s->json, what, e) ||
			      take_pieces(s, s->json, what, sentinels, e)
			  ? -1
			  : 0;
	if (!ret && !index_pieces(s))
		ret = err_set(e, "%s: two of its pieces are equal", what);
	if (ret)
		spiece_close(s);
	else
		*out = s;
	return ret;
}

void spiece_close(struct spiece *s)
{
	if (!s)
		return;
	free(s->piece);
	free(s->slot);
	json_decref(s->json);
	text_free(&s->decoded);
	free(s);
}

int spiece_size(const struct spiece *s)
{
	return s->n;
}

int spiece_find(const struct spiece *s, const char *piece, size_t n)
{
	for (size_t at = place(s, piece, n); s->slot[at] >= 0; at = (at + 1) & (s->slots - 1))
		if (same(&s->piece[s->slot[at]], piece, n))
			return s->slot[at];
	return -1;
}

float spiece_score(const struct spiece *s, int id)
{
	return s->piece[id].score;
}

size_t spiece_bytes(const struct spiece *s, int id)
{
	return s->piece[id].text.n;
}

const uint8_t *spiece_table(const struct spiece *s, size_t *n)
{
	*n = s->table.n;
	return s->table.n ? s->table.p : NULL;
}
