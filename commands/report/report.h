/*
 * report.h -- runs as one HTML page that needs nothing else: no network, no other file.
 *
 * The program collects (report_run.c, report_rows.c, report_images.c); the page draws, from JSON that lies in
 * it: page.html, page.css and the scripts beside them, which the build puts into the program (embed.py).
 */
#ifndef REPORT_H
#define REPORT_H
#include "base/err.h"
#include "base/json.h"

/* How much of the page images may take, and how many points a curve may have. */
#define REPORT_IMAGE_BYTES 5000000
#define REPORT_POINTS      2000

/* What metrics.jsonl holds, as columns: {"steps": {"step": [...], NAME: [...]}, "evals": likewise, "every":
 * epochs that one point is the mean of}.  A line that is not whole, as of a run that goes on, is left out;
 * other lines that are no JSON are an error.  NULL on error; new reference. */
json_t *report_rows(const char *run, struct err *e);
/* The images of samples/: {"columns" (images side by side, without gaps), "n", "prompts": [{"prompt",
 * "tag"}], "grids": [{"step", "type": "png" or "jpeg", "data": base64, "width" and "height" of an image,
 * "scores":
 * [{"reward", "strict", "rewards", "why"}]}]}, within `bytes` of base64: where they do not fit, fewer grids
 * and smaller images.  null: there are none.  What cannot be read is warned of and left out. */
json_t *report_images(const char *run, double bytes);
/* All of a run, named `name`. */
json_t *report_run(const char *run, const char *name, double image_bytes, struct err *e);

/* The page; refresh: seconds after which it loads itself again, 0: never.  free(). */
char *report_page(const json_t *runs, int64_t refresh, size_t *size);

/* ---- Made by embed.py ---- */
struct report_file {
	const char *name;
	const unsigned char *data;
	size_t size;
};
extern const struct report_file report_files[]; /* ends with a NULL name */

#endif
