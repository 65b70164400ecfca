#include "data/prompts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/machine/share.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

static char *copy_bytes(const char *s, size_t n)
{
	char *out = mem_alloc(n + 1);

	memcpy(out, s, n);
	out[n] = '\0';
	return out;
}

/* The bytes of the white space that begins at s, as Python's str.strip() knows it; 0: none does. */
static size_t blank(const char *s, const char *end)
{
	static const char *const wide[] = { "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8",
					    "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80" };
	size_t left = (size_t)(end - s);
	unsigned char c = (unsigned char)*s;

	if (c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31))
		return 1;
	for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
		if (left >= strlen(wide[i]) && !memcmp(s, wide[i], strlen(wide[i])))
			return strlen(wide[i]);
	/* U+2000 to U+200A */
	return left >= 3 && !memcmp(s, "\xe2\x80", 2) && (unsigned char)s[2] >= 0x80 &&
		       (unsigned char)s[2] <= 0x8a
		   ? 3
		   : 0;
}

/* Without white space at its ends. */
static void strip(const char **s, const char **stop)
{
	const char *last;
	size_t n;

	while (*s < *stop && (n = blank(*s, *stop)))
		*s += n;
	for (;;) {
		for (last = *stop; last > *s;)
			if (((unsigned char)*--last & 0xc0) != 0x80)
				break;
		if (last == *stop || blank(last, *stop) != (size_t)(*stop - last))
			return;
		*stop = last;
	}
}

/* Where a line ends that begins at s, and where the next one begins: at \n, \r\n or \r, as Python's text mode
 * reads files. */
static const char *line_end(const char *s, const char *end, const char **next)
{
	const char *stop = s;

	while (stop < end && *stop != '\n' && *stop != '\r')
		stop++;
	*next = stop < end ? stop + 1 : end;
	if (stop + 1 < end && stop[0] == '\r' && stop[1] == '\n')
		*next = stop + 2;
	return stop;
}

static int read_json(struct prompt *out, const char *line, size_t n, const char *where, struct err *e)
{
	json_t *o = json_parse(line, n, where, e);
	const char *text, *tag;
	int ret = -1;

	if (!o)
		return -1;
	if (!json_is_object(o)) {
		err_set(e, "%s: not a JSON object (wanted {\"prompt\": \"...\", ...})", where);
		goto out;
	}
	if (json_get_str(&text, o, "prompt", NULL, where, e) || json_get_str(&tag, o, "tag", "", where, e))
		goto out;
	if (!text) {
		err_set(e, "%s: no \"prompt\" in this object", where);
		goto out;
	}
	out->text = mem_str(text);
	out->tag = mem_str(tag);
	out->meta = json_line(o);
	ret = 0;
out:
	json_decref(o);
	return ret;
}

static int read_lines(struct prompts *p, const char *data, size_t size, bool jsonl, struct err *e)
{
	const char *s = data, *end = data + size;
	int64_t cap = 0, number = 0;
	int ret = -1;
	char *where = NULL;

	if (size >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) /* the byte order mark some editors write */
		s += 3;
	for (const char *next; s < end; s = next) {
		const char *stop = line_end(s, end, &next);
		struct prompt one = { 0 };
		number++;
		strip(&s, &stop);
		if (s == stop)
			continue;
		free(where);
		where = mem_printf("%s:%lld", p->path, (long long)number);
		if (memchr(s, '\0', (size_t)(stop - s))) {
			err_set(e, "%s: a NUL byte: this is not a text file", where);
			goto out;
		}
		if (jsonl && read_json(&one, s, (size_t)(stop - s), where, e))
			goto out;
		if (!jsonl)
			one =
			    (struct prompt) { copy_bytes(s, (size_t)(stop - s)), mem_str("{}"), mem_str("") };
		if (p->n == cap)
			p->v = mem_grow(p->v, (size_t)(cap = cap ? 2 * cap : 64), sizeof *p->v);
		p->v[p->n++] = one;
	}
	ret = p->n ? 0 : err_set(e, "%s: no prompts in this file", p->path);
out:
	free(where);
	return ret;
}

int prompts_read(struct prompts *p, const char *path, struct err *e)
{
	bool jsonl = text_ends(path, ".jsonl");
	char *data = NULL;
	size_t size;
	int ret = -1;

	*p = (struct prompts) { 0 };
	if (!jsonl && !text_ends(path, ".txt"))
		return err_set(e, "%s: a prompt file is named .txt or .jsonl", path);
	char *shared = share_find(path);
	if (file_read(&data, &size, shared ? shared : path, e)) {
		free(shared);
		return -1;
	}
	p->path = shared ? shared : mem_str(path);
	ret = read_lines(p, data, size, jsonl, e);
	free(data);
	if (ret)
		prompts_free(p);
	return ret;
}

void prompts_add_set(struct prompts *p, const char *name, double weight, bool by_tag, struct prompts *add)
{
	const char *file = add->path ? add->path : "", *before = p->path ? p->path : "";
	char *path = mem_printf("%s%s%s", before, *before && *file ? ", " : "", file);

	p->set = mem_grow(p->set, (size_t)p->sets + 1, sizeof *p->set);
	p->set[p->sets++] = (struct prompt_set) { .name = mem_str(name),
						  .path = mem_str(file),
						  .weight = weight,
						  .by_tag = by_tag,
						  .begin = p->n,
						  .n = add->n };
	p->v = mem_grow(p->v, (size_t)(p->n + add->n), sizeof *p->v);
	if (add->n) /* of an empty set v is NULL */
		memcpy(p->v + p->n, add->v, (size_t)add->n * sizeof *p->v);
	p->n += add->n;
	free(p->path);
	p->path = path;
	free(add->v);
	free(add->path);
	*add = (struct prompts) { 0 };
}

int prompts_set_of(const struct prompts *p, int64_t i)
{
	for (int k = 0; k < p->sets; k++)
		if (i < p->set[k].begin + p->set[k].n)
			return k;
	return 0;
}

char *prompts_where(const struct prompts *p, int64_t i)
{
	const struct prompt_set *set = p->sets ? &p->set[prompts_set_of(p, i)] : NULL;

	return mem_printf("%s: prompt %lld ('%.80s')", set ? set->path : p->path,
			  (long long)(set ? i - set->begin : i) + 1, p->v[i].text);
}

/* Only files that stand alone are copied. */
void prompts_copy(struct prompts *p, const struct prompts *from)
{
	*p = (struct prompts) { .n = from->n, .path = mem_str(from->path) };
	p->v = mem_zero((size_t)p->n, sizeof *p->v);
	for (int64_t i = 0; i < p->n; i++)
		p->v[i] = (struct prompt) { .text = mem_str(from->v[i].text),
					    .meta = mem_str(from->v[i].meta),
					    .tag = mem_str(from->v[i].tag) };
}

void prompts_free(struct prompts *p)
{
	for (int64_t i = 0; i < p->n; i++) {
		free(p->v[i].text);
		free(p->v[i].meta);
		free(p->v[i].tag);
	}
	for (int k = 0; k < p->sets; k++) {
		free(p->set[k].name);
		free(p->set[k].path);
	}
	free(p->set);
	free(p->v);
	free(p->path);
	*p = (struct prompts) { 0 };
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char **sorted_texts(const struct prompts *p)
{
	const char **out = mem_alloc((size_t)p->n * sizeof *out);

	for (int64_t i = 0; i < p->n; i++)
		out[i] = p->v[i].text;
	qsort(out, (size_t)p->n, sizeof *out, by_text);
	return out;
}

int64_t prompts_seen(const struct prompts *held, const struct prompts *trained, const char **first)
{
	const char **a = sorted_texts(held), **b = sorted_texts(trained);
	int64_t seen = 0;

	*first = NULL;
	for (int64_t i = 0, k = 0; i < held->n; i++) {
		while (k < trained->n && strcmp(b[k], a[i]) < 0)
			k++;
		if (k < trained->n && !strcmp(b[k], a[i]))
			seen += !i || strcmp(a[i], a[i - 1]);
	}
	for (int64_t i = 0; seen && !*first; i++)
		if (bsearch(&held->v[i].text, b, (size_t)trained->n, sizeof *b, by_text))
			*first = held->v[i].text;
	free(a);
	free(b);
	return seen;
}

void prompts_warn_seen(const struct prompts *held, const struct prompts *trained)
{
	const char *first;
	int64_t seen = prompts_seen(held, trained, &first);

	if (seen)
		log_warn_once(
		    "%s: %lld of its prompts are trained on (in %s, too: \"%.100s\"); scores on them say "
		    "nothing about new prompts",
		    held->path, (long long)seen, trained->path, first);
}

/* A pile of prompts that is dealt from the top and shuffled anew when it is used up. */
struct pile {
	const char *tag;
	int64_t *deck, n, next;
	uint64_t id, rounds; /* id + rounds * stride names the next shuffle */
};

static int64_t deal(struct pile *d, uint64_t seed, int64_t epoch, uint64_t stride)
{
	if (d->next % d->n == 0) {
		struct rng r = rng_make(seed, RNG_PROMPTS, (uint64_t)epoch, d->id + d->rounds * stride);
		rng_shuffle(&r, d->deck, d->n);
		d->rounds++;
		d->next = 0;
	}
	return d->deck[d->next++];
}

/* The piles of one set. */
struct piles {
	struct pile *v;
	int n;
	int64_t dealt; /* of this epoch */
};

/* One pile a tag, in order of first appearance; or one for all. */
static struct piles make_piles(const struct prompts *p, int64_t begin, int64_t count, bool by_tag,
			       uint64_t stream)
{
	struct piles all = { 0 };

	for (int64_t i = begin; i < begin + count; i++) {
		const char *tag = by_tag ? p->v[i].tag : "";
		int t = 0;
		while (t < all.n && strcmp(all.v[t].tag, tag))
			t++;
		if (t == all.n) {
			all.v = mem_grow(all.v, (size_t)++all.n, sizeof *all.v);
			all.v[t] = (struct pile) { .tag = tag, .id = stream + (uint64_t)t };
			all.v[t].deck = mem_alloc((size_t)count * sizeof *all.v[t].deck);
		}
		all.v[t].deck[all.v[t].n++] = i;
	}
	return all;
}

static int64_t draw_next(struct piles *s, uint64_t seed, int64_t epoch)
{
	return deal(&s->v[(s->dealt++ + epoch) % s->n], seed, epoch, (uint64_t)s->n);
}

static void free_piles(struct piles *s)
{
	for (int t = 0; t < s->n; t++)
		free(s->v[t].deck);
	free(s->v);
}

void prompts_draw(const struct prompts *p, uint64_t seed, int64_t epoch, int64_t groups, bool by_tag,
		  int64_t *out)
{
	struct piles all = make_piles(p, 0, p->n, by_tag, 0);

	for (int64_t g = 0; g < groups; g++)
		out[g] = draw_next(&all, seed, epoch);
	free_piles(&all);
}

#define STREAM_OF_SET                                                                                        \
	((uint64_t)1 << 25) /* above any count of shuffles in an epoch; 64 of them are below 2^32 */

/* The set that is furthest behind: of the first `total` groups it should have total * weight / sum. */
static int next_set(const struct prompts *p, const struct piles *piles, const int64_t *dealt, double sum,
		    double total)
{
	double most = 0;
	int set = -1;

	for (int k = 0; k < p->sets; k++) {
		double have = (double)(dealt[k] + piles[k].dealt),
		       behind = total * p->set[k].weight - have * sum; /* exact where weights are whole */

		if (!(p->set[k].weight > 0) || (set >= 0 && !(behind > most)))
			continue;
		set = k;
		most = behind;
	}
	return set;
}

void prompts_draw_sets(const struct prompts *p, uint64_t seed, int64_t epoch, int64_t groups, bool by_tag,
		       const int64_t *dealt, int64_t *out)
{
	struct piles *piles;
	double sum = 0, total = 0;

	if (!p->sets) {
		prompts_draw(p, seed, epoch, groups, by_tag, out);
		return;
	}
	piles = mem_zero((size_t)p->sets, sizeof *piles);
	for (int k = 0; k < p->sets; k++) {
		const struct prompt_set *s = &p->set[k];

		piles[k] = make_piles(p, s->begin, s->n, s->by_tag, (uint64_t)k * STREAM_OF_SET);
		sum += s->weight;
		total += (double)dealt[k];
	}
	for (int64_t g = 0; g < groups; g++)
		out[g] = draw_next(&piles[next_set(p, piles, dealt, sum, ++total)], seed, epoch);
	for (int k = 0; k < p->sets; k++)
		free_piles(&piles[k]);
	free(piles);
}

void prompts_share(int64_t n, int rank, int ranks, int64_t *begin, int64_t *end)
{
	*begin = n * rank / ranks;
	*end = n * (rank + 1) / ranks;
}

void prompts_deal(int64_t n, int64_t parts, bool anew, uint64_t seed, int64_t epoch, int64_t *part)
{
	int64_t *order = mem_zero((size_t)parts, sizeof *order);

	for (int64_t i = 0; i < n; i++) {
		int64_t block = i / parts, at = i % parts;

		if (!at && (anew || !block)) {
			/* stream 0 is the order of the pairs */
			struct rng r = rng_make(seed, RNG_SHUFFLE, (uint64_t)epoch, (uint64_t)block + 1);

			for (int64_t k = 0; k < parts; k++)
				order[k] = k;
			rng_shuffle(&r, order, parts);
		}
		part[i] = order[at];
	}
	free(order);
}
