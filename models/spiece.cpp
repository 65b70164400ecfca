// spiece.cpp -- see spiece.h; nothing of C++ leaves this file.
#include "models/spiece.h"
#include <sentencepiece_processor.h>
#include <exception>
#include <string>

struct spiece {
	sentencepiece::SentencePieceProcessor p;
};

extern "C" {
int spiece_open(struct spiece **out, const void *model, size_t n, const char *what, struct err *e)
{
	spiece *s = new spiece;
	bool loaded = false;

	try {
		loaded = s->p.LoadFromSerializedProto({ static_cast<const char *>(model), n }).ok();
	} catch (const std::exception &) { // the library's own trie throws at pieces with zero bytes in them
	}
	if (!loaded) {
		delete s;
		return err_set(e, "%s: not a sentencepiece model", what);
	}
	*out = s;
	return 0;
}

void spiece_close(struct spiece *s)
{
	delete s;
}

int spiece_size(const struct spiece *s)
{
	return s->p.GetPieceSize();
}

int spiece_find(const struct spiece *s, const char *piece, size_t n)
{
	const int id = s->p.PieceToId({ piece, n });

	/* misses are the rule: nothing is allocated for them */
	return id == s->p.unk_id() && s->p.IdToPiece(id).compare(0, std::string::npos, piece, n) != 0 ? -1
												      : id;
}

float spiece_score(const struct spiece *s, int id)
{
	return s->p.GetScore(id);
}

size_t spiece_bytes(const struct spiece *s, int id)
{
	return s->p.IdToPiece(id).size();
}
}
