#include "base/image.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libpng reports errors by a callback that must not return. */
struct trap {
	jmp_buf out;
	char msg[120];
};

static void stop(png_structp png, png_const_charp msg)
{
	struct trap *t = png_get_error_ptr(png);

	snprintf(t->msg, sizeof t->msg, "%s", msg);
	longjmp(t->out, 1);
}

static void ignore(png_structp png, png_const_charp msg)
{
	(void)png, (void)msg;
}

static void put(png_structp png, png_bytep data, size_t n)
{
	text_add_bytes(png_get_io_ptr(png), data, n);
}

static void flush(png_structp png)
{
	(void)png;
}

static bool is_ascii(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s >= 0x7f || ((unsigned char)*s < ' ' && *s != '\n'))
			return false;
	return true;
}

/* tEXt is Latin-1; what has other characters than ASCII's goes to iTXt, which is UTF-8. */
static void add_notes(png_structp png, png_infop info, const struct image_note *note)
{
	for (; note && note->key; note++) {
		png_text t = { .compression = is_ascii(note->text) ? PNG_TEXT_COMPRESSION_NONE
								   : PNG_ITXT_COMPRESSION_NONE,
			       .key = (char *)(uintptr_t)note->key,
			       .text = note->text };

		png_set_text(png, info, &t, 1);
	}
}

static void write_all(png_structp png, png_infop info, int w, int h, const uint8_t *rgb,
		      const struct image_note *note)
{
	png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
		     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_set_sRGB(png, info, PNG_sRGB_INTENT_PERCEPTUAL);
	add_notes(png, info, note);
	png_write_info(png, info);
	for (int y = 0; y < h; y++)
		png_write_row(png, rgb + (size_t)y * (size_t)w * 3);
	png_write_end(png, NULL);
}

/* Appends to *out; an error leaves a part there. */
static int encode(struct text *out, int w, int h, const uint8_t *rgb, const struct image_note *note,
		  struct err *e)
{
	struct trap trap;
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &trap, stop, ignore);
	png_infop info = png ? png_create_info_struct(png) : NULL;

	if (!info)
		die("out of memory for libpng");
	if (setjmp(trap.out)) {
		png_destroy_write_struct(&png, &info);
		return err_set(e, "cannot encode an image of %d x %d: %s", w, h, trap.msg);
	}
	png_set_write_fn(png, out, put, flush);
	write_all(png, info, w, h, rgb, note);
	png_destroy_write_struct(&png, &info);
	return 0;
}

int image_png_noted(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb,
		    const struct image_note *note, struct err *e)
{
	struct text t = { 0 };
	int ret = encode(&t, w, h, rgb, note, e);

	if (ret)
		text_free(&t);
	*out = (uint8_t *)t.s;
	*size = t.n;
	return ret;
}

int image_png(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb, struct err *e)
{
	return image_png_noted(out, size, w, h, rgb, NULL, e);
}

int image_write_png_noted(const char *path, int w, int h, const uint8_t *rgb, const struct image_note *note,
			  struct err *e)
{
	uint8_t *data;
	size_t n;
	int ret;

	if (image_png_noted(&data, &n, w, h, rgb, note, e))
		return -1;
	ret = file_write(path, data, n, e);
	free(data);
	return ret;
}

int image_write_png(const char *path, int w, int h, const uint8_t *rgb, struct err *e)
{
	return image_write_png_noted(path, w, h, rgb, NULL, e);
}
