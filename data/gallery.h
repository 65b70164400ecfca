/*
 * gallery.h -- images on disk, each with its prompt.
 *
 * A folder stands for the .png, .jpg and .jpeg files in it and below, by path, numbers in names as numbers
 * (2 before 10); hidden files are not looked at.  Prompts come from a file, or lie beside the images:
 *
 *   a.png, a.txt             the prompt as text, on one line
 *   a.png, a.jsonl           one object with `prompt` and anything else as metadata
 *   metadata.jsonl, samples/ GenEval's folders: the object is of every image in samples/.  Images beside
 *                            metadata.jsonl are its grids, and left out when a folder is looked through.
 */
#ifndef GALLERY_H
#define GALLERY_H
#include "data/prompts.h"

struct gallery {
	int64_t n;
	struct gallery_image {
		char *path;
		const struct prompt *prompt; /* the gallery's */
	} * image;
	/* The gallery's own. */
	struct prompts *file; /* prompt files that were read */
	int64_t files, room, file_room;
};

/* Images of n paths, files and folders, in this order.  `prompts` is a prompt file with one prompt for all
 * or one an image, or NULL: beside the images.  Errors: a path that is not there, a folder without
 * images, an image without a prompt. */
int gallery_open(struct gallery *g, const char *const *path, int n, const char *prompts, struct err *e);
void gallery_close(struct gallery *g);

#endif
