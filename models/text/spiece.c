#include "models/text/spiece.h"
#include "base/file.h"
#include "base/mem.h"
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

void spiece_close(struct spiece *s)
{
	if (!s)
		return;
	free(s->piece);
	free(s->slot);
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
