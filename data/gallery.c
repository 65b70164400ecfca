#include "data/gallery.h"
#include "base/file.h"
#include "base/mem.h"
#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_image(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (!strcasecmp(dot, ".png") || !strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg"));
}

static void add(struct gallery *g, const char *path)
{
	MEM_PUSH(g->image, g->n, g->room) = (struct gallery_image) { .path = mem_str(path) };
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strverscmp((*a)->fts_name, (*b)->fts_name);
}

/* The file beside an image in GenEval's folders: DIR/metadata.jsonl of DIR/samples/x.png. */
static char *genevals(const char *path)
{
	char *dir = file_dir(path), *above = file_dir(dir), *out = file_join(above, "metadata.jsonl");

	if (strcmp(file_base(dir), "samples") || !file_exists(out)) {
		free(out);
		out = NULL;
	}
	free(above);
	free(dir);
	return out;
}

static bool is_grid(const char *path)
{
	char *dir = file_dir(path), *meta = file_join(dir, "metadata.jsonl"),
	     *samples = file_join(dir, "samples");
	bool yes = file_exists(meta) && file_is_dir(samples);

	free(samples);
	free(meta);
	free(dir);
	return yes;
}

static int add_folder(struct gallery *g, const char *path, struct err *e)
{
	char *const roots[] = { (char *)(uintptr_t)path, NULL };
	FTS *fts = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name);
	int64_t before = g->n;
	int ret = 0;

	if (!fts)
		return err_set(e, "%s: cannot be read: %s", path, strerror(errno));
	for (FTSENT *f; !ret && (f = fts_read(fts));) {
		if (f->fts_level > 0 && f->fts_name[0] == '.')
			fts_set(fts, f, FTS_SKIP);
		else if (is_image(f->fts_name) && (f->fts_info == FTS_SLNONE || f->fts_info == FTS_NS))
			ret = err_set(e, "%s: cannot be read: %s", f->fts_path,
				      f->fts_info == FTS_NS ? strerror(f->fts_errno) : "a link to nowhere");
		else if (f->fts_info == FTS_DNR || f->fts_info == FTS_ERR)
			ret = err_set(e, "%s: cannot be read: %s", f->fts_path, strerror(f->fts_errno));
		else if (f->fts_info == FTS_DC)
			ret = err_set(e, "%s: a link to a folder above it", f->fts_path);
		else if (f->fts_info == FTS_F && is_image(f->fts_name) && !is_grid(f->fts_path))
			add(g, f->fts_path);
	}
	fts_close(fts);
	if (!ret && g->n == before)
		ret = err_set(e, "%s: no .png, .jpg or .jpeg file in this folder", path);
	return ret;
}

static const struct prompts *read_file(struct gallery *g, const char *path, struct err *e)
{
	struct prompts p;

	if (prompts_read(&p, path, e))
		return NULL;
	MEM_PUSH(g->file, g->files, g->file_room) = p;
	return &g->file[g->files - 1];
}

/* NAME.txt, NAME.jsonl or GenEval's; NULL: there is none. */
static char *find_beside(const char *path)
{
	static const char *const ends[] = { ".txt", ".jsonl" };
	int stem = (int)(strrchr(path, '.') - path);

	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		char *file = mem_printf("%.*s%s", stem, path, ends[i]);

		if (file_exists(file))
			return file;
		free(file);
	}
	return genevals(path);
}

/* The prompt of image i, from beside it.  GenEval's file is that of the image before, most times. */
static int read_beside(struct gallery *g, int64_t i, struct err *e)
{
	const char *path = g->image[i].path;
	char *name = is_image(path) ? find_beside(path) : NULL;
	const struct prompts *p;
	int ret = 0;

	if (!name)
		return err_set(e,
			       "%s: no prompt beside it (NAME.txt, NAME.jsonl or GenEval's metadata.jsonl); "
			       "give --prompts FILE",
			       path);
	if (g->files && !strcmp(g->file[g->files - 1].path, name))
		p = &g->file[g->files - 1];
	else
		p = read_file(g, name, e);
	if (!p)
		ret = -1;
	else if (p->n != 1)
		ret = err_set(e, "%s: %lld prompts, where the one of %s was expected", name, (long long)p->n,
			      file_base(path));
	else
		g->image[i].prompt = &p->v[0]; /* on the heap, wherever g->file moves */
	free(name);
	return ret;
}

static int read_prompts(struct gallery *g, const char *prompts, struct err *e)
{
	const struct prompts *p = prompts ? read_file(g, prompts, e) : NULL;

	if (prompts && !p)
		return -1;
	if (p && p->n != 1 && p->n != g->n)
		return err_set(e, "%lld images but %lld prompts in %s; give one prompt, or one an image",
			       (long long)g->n, (long long)p->n, prompts);
	for (int64_t i = 0; i < g->n; i++) {
		if (p)
			g->image[i].prompt = &p->v[p->n == 1 ? 0 : i];
		else if (read_beside(g, i, e))
			return -1;
	}
	return 0;
}

int gallery_open(struct gallery *g, const char *const *path, int n, const char *prompts, struct err *e)
{
	int ret = 0;

	*g = (struct gallery) { 0 };
	for (int i = 0; i < n && !ret; i++) {
		if (file_is_dir(path[i]))
			ret = add_folder(g, path[i], e);
		else if (file_exists(path[i]))
			add(g, path[i]);
		else
			ret = err_set(e, "%s: no such file or folder", path[i]);
	}
	if (!ret)
		ret = read_prompts(g, prompts, e);
	if (ret)
		gallery_close(g);
	return ret;
}

void gallery_close(struct gallery *g)
{
	for (int64_t i = 0; i < g->n; i++)
		free(g->image[i].path);
	for (int64_t i = 0; i < g->files; i++)
		prompts_free(&g->file[i]);
	free(g->image);
	free(g->file);
	*g = (struct gallery) { 0 };
}
