#include "trainer/evaluation/album.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/record/inputs.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RECORD "album.json"

const char *const album_layouts[] = { "flat", "geneval", NULL };

/* ---- Names --------------------------------------------------------------------------------------- */

char *album_path(const struct album *a, int64_t id)
{
	long long prompt = id / a->per, sample = id % a->per;

	return a->layout == ALBUM_GENEVAL ? mem_printf("%s/%05lld/samples/%04lld.png", a->dir, prompt, sample)
					  : mem_printf("%s/%05lld-%04lld.png", a->dir, prompt, sample);
}

static bool is_of_text(const struct prompt *p)
{
	return !strcmp(p->meta, "{}");
}

/* The file with the prompt of an image, which GenEval's layout has once for all of them. */
static char *prompt_path(const struct album *a, int64_t id)
{
	long long prompt = id / a->per, sample = id % a->per;

	if (a->layout == ALBUM_GENEVAL)
		return mem_printf("%s/%05lld/metadata.jsonl", a->dir, prompt);
	return mem_printf("%s/%05lld-%04lld.%s", a->dir, prompt, sample,
			  is_of_text(&a->prompts->v[prompt]) ? "txt" : "jsonl");
}

/* What stands there; free(). */
static char *prompt_line(const struct album *a, int64_t id)
{
	const struct prompt *p = &a->prompts->v[id / a->per];
	const char *line = a->layout == ALBUM_FLAT && is_of_text(p) ? p->text : p->meta;
	char *made = NULL, *out;

	if (a->layout == ALBUM_GENEVAL && is_of_text(p)) {
		json_t *j = json_object();

		json_object_set_new(j, "prompt", json_words(p->text));
		line = made = json_line(j);
		json_decref(j);
	}
	out = mem_printf("%s\n", line);
	free(made);
	return out;
}

/* ---- What is there ------------------------------------------------------------------------------- */

static bool holds(const char *path, const char *text)
{
	struct err ignored;
	struct file_map m;

	if (!file_exists(path) || file_map(&m, path, &ignored))
		return false;
	bool same = m.size == strlen(text) && !memcmp(m.data, text, m.size);
	file_unmap(&m);
	return same;
}

/* A PNG of that size up to its last chunk: a copy that broke off is none. */
static bool is_whole(const char *path, int w, int h)
{
	static const uint8_t last[] = { 0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82 };
	int is_w = 0, is_h = 0;
	struct err ignored;
	struct file_map m;

	if (!file_exists(path) || file_map(&m, path, &ignored))
		return false;
	bool whole = m.size > sizeof last && !memcmp(m.data + m.size - sizeof last, last, sizeof last) &&
		     !image_size(&is_w, &is_h, m.data, m.size, path, &ignored) && is_w == w && is_h == h;
	file_unmap(&m);
	return whole;
}

static bool is_there(const struct album *a, int64_t id)
{
	char *image = album_path(a, id), *prompt = prompt_path(a, id), *line = prompt_line(a, id);
	bool yes = is_whole(image, a->w, a->h) && holds(prompt, line);

	free(line);
	free(prompt);
	free(image);
	return yes;
}

/* What processes that were killed left of files they wrote. */
static void sweep(const struct album *a)
{
	static const char *const digits[] = { "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", NULL };
	static const char *const metadata[] = { "metadata.jsonl", NULL };

	file_sweep(a->dir, digits);
	for (int64_t i = 0; a->layout == ALBUM_GENEVAL && i < a->prompts->n; i++) {
		char *samples = mem_printf("%s/%05lld/samples", a->dir, (long long)i),
		     *above = file_dir(samples);

		file_sweep(samples, digits);
		file_sweep(above, metadata);
		free(above);
		free(samples);
	}
}

static void look(struct album *a)
{
	sweep(a);
	for (int64_t i = 0; i < a->n; i++)
		a->there[i] = is_there(a, i);
}

/* ---- How it was made ------------------------------------------------------------------------------ */

static json_t *record_of(const struct album_plan *p)
{
	static const char *const names[] = { "version", "model", "adapter" };
	json_t *j = json_deep_copy(p->how);
	uint64_t hash = (uint64_t)p->prompts->n;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!json_object_get(j, names[i]))
			json_object_set_new(j, names[i], json_null());
	for (int64_t i = 0; i < p->prompts->n; i++) {
		hash = file_hash(p->prompts->v[i].text, strlen(p->prompts->v[i].text) + 1, hash);
		hash = file_hash(p->prompts->v[i].meta, strlen(p->prompts->v[i].meta) + 1, hash);
	}
	json_object_set_new(j, "prompts", json_words(p->prompts->path));
	inputs_add(j, "prompts_hash", hash);
	json_object_set_new(j, "layout", json_string(album_layouts[p->layout]));
	json_object_set_new(j, "images_per_prompt", json_integer(p->per));
	return j;
}

/* Where something lay, not what it was. */
static bool is_name(const char *key)
{
	static const char *const names[] = { "version", "model", "adapter", "prompts", NULL };

	return text_index(key, names) >= 0;
}

static int check_same(const json_t *was, const json_t *is, const char *in, const char *dir, struct err *e)
{
	const char *key;
	json_t *now;
	int ret = 0;

	json_object_foreach((json_t *)(uintptr_t)is, key, now)
	{
		json_t *then = json_object_get(was, key);

		if (is_name(key) || (then && json_equal(then, now)))
			continue;
		if (json_is_object(then) && json_is_object(now)) {
			if (check_same(then, now, key, dir, e))
				return -1;
			continue;
		}
		char *a = then ? json_line(then) : mem_str("unknown"), *b = json_line(now);
		ret = err_set(e,
			      "%s holds images of another making: %s%s%s was %s there and is %s here: take "
			      "another folder, or remove this one (" RECORD " in it says how they were made)",
			      dir, in, *in ? "." : "", key, a, b);
		free(a);
		free(b);
		return ret;
	}
	return 0;
}

/* Something that is no album's. */
static int check_empty(const char *dir, struct err *e)
{
	DIR *d = opendir(dir);
	int ret = !d && errno != ENOENT ? err_set(e, "%s: %s", dir, strerror(errno)) : 0;

	for (struct dirent *x; d && !ret && (x = readdir(d));)
		if (strcmp(x->d_name, ".") && strcmp(x->d_name, "..") && strcmp(x->d_name, "lock") &&
		    !text_starts(x->d_name, RECORD))
			ret = err_set(e,
				      "%s: not empty, and no " RECORD
				      " in it says what its files are: images go "
				      "to a folder of their own",
				      dir);
	if (d)
		closedir(d);
	return ret;
}

static int check_record(const struct album *a, const char *path, struct err *e)
{
	json_t *was = json_read(path, e);
	int ret = was ? check_same(was, a->how, "", a->dir, e) : -1;
	const char *version = json_string_value(json_object_get(was, "version"));

	if (!ret && version && strcmp(version, json_string_value(json_object_get(a->how, "version"))))
		log_warn("%s: what is there was made by version %s", a->dir, version);
	json_decref(was);
	return ret;
}

/* Of rank 0. */
static int claim(struct album *a, const struct album_plan *plan, struct err *e)
{
	char *path = file_join(a->dir, RECORD);
	bool known = file_exists(path);
	int ret = known ? 0 : check_empty(a->dir, e);

	a->how = record_of(plan);
	if (!ret)
		ret = file_mkdirs(a->dir, e) || runlock_take(&a->lock, a->dir, e) ? -1 : 0;
	if (!ret)
		ret = known ? check_record(a, path, e) : json_write(path, a->how, e);
	if (!ret)
		look(a);
	free(path);
	return ret;
}

/* What rank 0 knows. */
static int share(struct album *a, struct err *e)
{
	struct dist *d = a->dist;
	char *text = d->rank == 0 ? json_line(a->how) : NULL, *record = file_join(a->dir, RECORD);
	uint64_t size = text ? strlen(text) + 1 : 0;
	int ret = 0;

	dist_broadcast(d, &size, sizeof size, 0);
	text = text ? text : mem_alloc(size);
	dist_broadcast(d, text, size, 0);
	dist_broadcast(d, a->there, (size_t)a->n * sizeof *a->there, 0);
	if (d->rank)
		a->how = json_parse(text, size - 1, RECORD, e);
	if (!file_exists(record))
		ret = err_set(
		    e, "%s is not there for all ranks: on several machines, give a folder that they share",
		    record);
	free(record);
	free(text);
	return dist_agree(d, a->how ? ret : -1, e);
}

int album_open(struct album *a, struct dist *d, const struct album_plan *plan, struct err *e)
{
	*a = (struct album) { .dist = d,
			      .dir = mem_str(plan->dir),
			      .layout = plan->layout,
			      .prompts = plan->prompts,
			      .per = plan->per,
			      .n = plan->prompts->n * plan->per,
			      .w = plan->w,
			      .h = plan->h,
			      .lock = { .fd = -1 } };
	a->there = mem_zero((size_t)a->n, sizeof *a->there);
	if (dist_agree(d, d->rank == 0 ? claim(a, plan, e) : 0, e) || share(a, e)) {
		album_close(a);
		return -1;
	}
	for (int64_t i = 0; i < a->n; i++)
		a->found += a->there[i];
	return 0;
}

void album_close(struct album *a)
{
	if (!a->dir)
		return;
	if (a->dist->rank == 0)
		runlock_drop(&a->lock, false);
	json_decref(a->how);
	free(a->there);
	free(a->dir);
	*a = (struct album) { 0 };
}

/* ---- Its images ----------------------------------------------------------------------------------- */

int64_t album_missing(const struct album *a, int64_t *id)
{
	int64_t n = a->n - a->found, at = 0, begin, end, mine = 0;

	prompts_share(n, a->dist->rank, a->dist->ranks, &begin, &end);
	for (int64_t i = 0; i < a->n; i++) {
		if (a->there[i])
			continue;
		if (at >= begin && at < end)
			id[mine++] = i;
		at++;
	}
	return mine;
}

struct image_note *album_notes(const json_t *how, const char *prompt, const char *sample)
{
	static const char *const keys[] = { "seed",    "model",        "transformer_hash",
					    "adapter", "adapter_hash", "settings" };
	struct image_note *note = mem_zero(4 + sizeof keys / sizeof *keys, sizeof *note);
	const char *version = json_string_value(json_object_get(how, "version"));
	json_t *words = json_words(prompt);
	int n = 0;

	note[n++] = (struct image_note) { "prompt", mem_str(json_string_value(words)) };
	note[n++] = (struct image_note) { "sample", mem_str(sample) };
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		const json_t *v = json_object_get(how, keys[i]);

		if (v && !json_is_null(v))
			note[n++] =
			    (struct image_note) { keys[i], json_is_string(v) ? mem_str(json_string_value(v))
									     : json_line(v) };
	}
	note[n++] = (struct image_note) { "Software", mem_printf("contraflow %s", version ? version : "") };
	json_decref(words);
	return note;
}

void album_notes_free(struct image_note *note)
{
	for (struct image_note *x = note; x->key; x++)
		free(x->text);
	free(note);
}

/* Its prompt first: an image without one is not whole. */
static int put_prompt(const struct album *a, int64_t id, struct err *e)
{
	char *path = prompt_path(a, id), *line = prompt_line(a, id);
	int ret = holds(path, line) ? 0 : file_write_cached(path, line, strlen(line), e);

	free(line);
	free(path);
	return ret;
}

int album_put(const struct album *a, int64_t id, const uint8_t *rgb, struct err *e)
{
	char *path = album_path(a, id), *dir = file_dir(path);
	char *sample = mem_printf("%lld", (long long)(id % a->per));
	struct image_note *note = album_notes(a->how, a->prompts->v[id / a->per].text, sample);
	int ret = file_mkdirs(dir, e) || put_prompt(a, id, e) ||
			  image_write_png_noted(path, a->w, a->h, rgb, note, e)
		      ? -1
		      : 0;

	album_notes_free(note);
	free(sample);
	free(dir);
	free(path);
	return ret;
}

int album_get(struct image *im, const struct album *a, int64_t id, struct err *e)
{
	char *path = album_path(a, id);
	int ret = image_read(im, path, e);

	if (!ret && (im->w != a->w || im->h != a->h)) {
		ret = err_set(e, "%s: it has changed while this runs", path);
		image_free(im);
	}
	free(path);
	return ret;
}
