/*
 * reward_ocr.c -- is the text that the prompt asks for in the image?
 *
 * The prompt's text between its first pair of double quotes against what Tesseract 5 reads, both lower-cased
 * and without white space: 1 when the one contains the other, else 1 - min(distance, length) / length, with
 * Levenshtein's distance over code points and the length of the wanted text (flow_grpo's OCR reward, which
 * reads with PaddleOCR).  Of several quoted texts the first counts, as there; apostrophes of either form are
 * the same letter, unlike there, since an image does not tell which was written.
 */
#include "base/machine/one_thread.h"
#include "base/mem.h"
#include "base/text.h"
#include "models/text/unicode.h"
#include "rewards/reward.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <tesseract/capi.h>
#include <utf8proc.h>

struct ocr_conf {
	char *language, *data, *layout;
};

/* Tesseract's page segmentation modes that make sense for an image. */
static const struct {
	const char *name;
	TessPageSegMode mode;
} layouts[] = { { "auto", PSM_AUTO },
		{ "sparse", PSM_SPARSE_TEXT },
		{ "block", PSM_SINGLE_BLOCK },
		{ "line", PSM_SINGLE_LINE },
		{ "column", PSM_SINGLE_COLUMN } };
static const char *const layout_names[] = { "auto", "sparse", "block", "line", "column", NULL };

static const struct field fields[] = {
	FIELD(struct ocr_conf, language, .init = "eng",
	      .doc = "language, by Tesseract's name for it; several are joined by +. Each is a package of "
		     "its own"),
	FIELD(struct ocr_conf, data, .init = "",
	      .doc = "folder with LANGUAGE.traineddata; empty: Tesseract's own, or $TESSDATA_PREFIX"),
	FIELD(struct ocr_conf, layout, .init = "sparse", .choices = layout_names,
	      .doc = "where to look for text: anywhere in the image (sparse), or laid out as on a page"),
	FIELD_END
};

struct engine {
	TessBaseAPI *api;
	struct engine *next;
};
/* Engines that no thread uses; one is made when all are in use. */
struct ocr {
	const struct ocr_conf *conf;
	pthread_mutex_t lock;
	struct engine *idle;
};

/* ---- Engines ------------------------------------------------------------------------------------- */

/* What is missing and how to get it.  Debian's packages have hyphens where Tesseract's names have not. */
static void say_missing(const struct ocr_conf *c, struct err *e)
{
	struct text packages = { 0 };

	for (const char *s = c->language; *s; s++) {
		if (s == c->language || s[-1] == '+')
			text_printf(&packages, "%stesseract-ocr-", s == c->language ? "" : " ");
		if (*s != '+')
			text_add_bytes(&packages, *s == '_' ? "-" : s, 1);
	}
	err_set(e,
		"Tesseract has no language '%s'%s%s: install it (on Debian: apt install %s) or set "
		"rewards.ocr.data to the folder of %s.traineddata",
		c->language, *c->data ? " in " : "", c->data, packages.s ? packages.s : "", c->language);
	text_free(&packages);
}

static struct engine *engine_new(const struct ocr_conf *c, struct err *e)
{
	struct engine *x = mem_zero(1, sizeof *x);
	/* what is unclear is dropped rather than guessed; and no word lists: signs in images are no prose
	 */
	static const char *const settings[][2] = { { "load_system_dawg", "0" }, { "load_freq_dawg", "0" } };
	const char *names[2], *values[2];

	x->api = TessBaseAPICreate();
	/* before anything is said: of each image it would print "Estimating resolution as 422" */
	TessBaseAPISetVariable(x->api, "debug_file", "/dev/null");
	for (size_t i = 0; i < 2; i++) {
		names[i] = settings[i][0];
		values[i] = settings[i][1];
	}
	if (TessBaseAPIInit4(x->api, *c->data ? c->data : NULL, c->language, OEM_LSTM_ONLY, NULL, 0,
			     (char **)(uintptr_t)names, (char **)(uintptr_t)values, 2, 0)) {
		TessBaseAPIDelete(x->api);
		free(x);
		say_missing(c, e);
		return NULL;
	}
	for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
		if (!strcmp(layouts[i].name, c->layout))
			TessBaseAPISetPageSegMode(x->api, layouts[i].mode);
	return x;
}

static struct engine *borrow(struct ocr *o, struct err *e)
{
	pthread_mutex_lock(&o->lock);
	struct engine *x = o->idle;
	if (x)
		o->idle = x->next;
	pthread_mutex_unlock(&o->lock);
	return x ? x : engine_new(o->conf, e);
}

static void give_back(struct ocr *o, struct engine *x)
{
	pthread_mutex_lock(&o->lock);
	x->next = o->idle;
	o->idle = x;
	pthread_mutex_unlock(&o->lock);
}

static int open_ocr(void **state, const void *conf, struct err *e)
{
	struct ocr *o = mem_zero(1, sizeof *o);
	struct engine *x;

	o->conf = conf;
	if (!(x = engine_new(o->conf, e))) {
		free(o);
		return -1;
	}
	pthread_mutex_init(&o->lock, NULL);
	give_back(o, x);
	*state = o;
	return 0;
}

static void close_ocr(void *state)
{
	struct ocr *o = state;

	if (!o)
		return;
	for (struct engine *x = o->idle, *next; x; x = next) {
		next = x->next;
		TessBaseAPIEnd(x->api);
		TessBaseAPIDelete(x->api);
		free(x);
	}
	pthread_mutex_destroy(&o->lock);
	free(o);
}

/* ---- Texts --------------------------------------------------------------------------------------- */

#define APOSTROPHES(c) ((c) == 0x2018 || (c) == 0x2019 || (c) == 0x2BC)

/* Code points, without white space, lower-cased; what is not UTF-8 is left out.  free(). */
static int32_t *letters(const char *s, size_t size, size_t *n)
{
	struct text dense = { 0 }, lower = { 0 };

	for (size_t at = 0; at < size;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t k =
		    utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(size - at), &c);

		if (k > 0 && !unicode_is_space(c))
			unicode_put(&dense, APOSTROPHES(c) ? '\'' : c);
		at += k > 0 ? (size_t)k : 1;
	}
	unicode_lower(&lower, dense.s, dense.n);
	int32_t *out = mem_zero(lower.n + 1, sizeof *out);
	*n = 0;
	for (size_t at = 0; at < lower.n;)
		at += unicode_next(lower.s + at, lower.n - at, &out[(*n)++]);
	text_free(&dense);
	text_free(&lower);
	return out;
}

static bool contains(const int32_t *text, size_t n, const int32_t *part, size_t k)
{
	for (size_t at = 0; at + k <= n; at++)
		if (!memcmp(text + at, part, k * sizeof *part))
			return true;
	return false;
}

/* Levenshtein's distance, one row at a time. */
static size_t distance(const int32_t *a, size_t n, const int32_t *b, size_t m)
{
	size_t *row = mem_zero(m + 1, sizeof *row), ret;

	for (size_t j = 0; j <= m; j++)
		row[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			best = row[j] + 1 < best ? row[j] + 1 : best;
			best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
			diagonal = row[j];
			row[j] = best;
		}
	}
	ret = row[m];
	free(row);
	return ret;
}

/* The text between the first two double quotes; -1 when there is none with a letter in it, or when nobody can
 * know which quotes are a pair: inches, say. */
static int wanted(const char *prompt, int32_t **out, size_t *n, struct err *e)
{
	const char *from = strchr(prompt, '"'), *to = from ? strchr(from + 1, '"') : NULL;
	int quotes = 0;

	*out = NULL;
	*n = 0;
	for (const char *s = from; s; s = strchr(s + 1, '"'))
		quotes++;
	if (quotes % 2)
		return err_set(
		    e, "the prompt has an odd number of double quotes: write only the text that is asked "
		       "for between them");
	if (to)
		*out = letters(from + 1, (size_t)(to - from - 1), n);
	if (*out && *n)
		return 0;
	free(*out);
	return err_set(e, "the prompt asks for no text: write the text between double quotes%s",
		       strstr(prompt, "\u201c") ? ", straight ones" : "");
}

static double compare(const int32_t *want, size_t k, const char *read)
{
	size_t n, d;
	int32_t *found = letters(read, strlen(read), &n);

	d = contains(found, n, want, k) ? 0 : distance(found, n, want, k);
	free(found);
	return 1 - (double)(d < k ? d : k) / (double)k;
}

/* ---- The reward ---------------------------------------------------------------------------------- */

static int check(void *state, const char *prompt, const char *meta, struct err *e)
{
	int32_t *want;
	size_t n;

	(void)state, (void)meta;
	if (wanted(prompt, &want, &n, e))
		return -1;
	free(want);
	return 0;
}

static int read_one(struct engine *x, const struct reward_item *item, double *value, struct err *e)
{
	int32_t *want;
	size_t n;

	if (wanted(item->prompt, &want, &n, e))
		return -1;
	TessBaseAPISetImage(x->api, item->rgb, item->w, item->h, 3, 3 * item->w);
	TessBaseAPISetSourceResolution(x->api, 70); /* what it takes for an image that does not say */
	char *read = TessBaseAPIGetUTF8Text(x->api);
	if (read)
		*value = compare(want, n, read);
	else
		err_set(e, "Tesseract could not read the image");
	TessDeleteText(read);
	TessBaseAPIClear(x->api);
	free(want);
	return read ? 0 : -1;
}

struct reading {
	struct engine *engine;
	const struct reward_item *item;
	int n;
	struct reward_score *out;
};

static void read_all(void *ctx)
{
	const struct reading *r = ctx;

	for (int i = 0; i < r->n; i++) {
		struct err why;
		double value;

		if (read_one(r->engine, &r->item[i], &value, &why))
			reward_fail(&r->out[i], 1, why.msg);
		else
			reward_put(&r->out[i], 1, &value, "Tesseract's");
	}
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct engine *x = borrow(state, e);
	struct reading r = { x, item, n, out };

	if (!x)
		return -1;
	/* several images at a time use the cores better than Tesseract's four threads for one */
	one_thread(read_all, &r);
	give_back(state, x);
	return 0;
}

const struct reward_type reward_ocr = {
	.abi = REWARD_ABI,
	.name = "ocr",
	.doc = "How much of the text in the prompt's double quotes, the first of several, Tesseract reads in "
	       "the image",
	.flags = REWARD_THREAD_SAFE,
	.fields = fields,
	.conf_size = sizeof(struct ocr_conf),
	.open = open_ocr,
	.check = check,
	.score = score,
	.close = close_ocr,
};
