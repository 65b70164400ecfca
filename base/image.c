#include "base/image.h"
#include "base/file.h"
#include "base/mem.h"
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#define MAX_PIXELS (64u << 20)
#define MAX_SCANS  500 /* a progressive JPEG can ask for a pass over the whole image every few bytes */

void image_free(struct image *im)
{
	free(im->rgb);
	*im = (struct image) { 0 };
}

static int check_size(uint64_t w, uint64_t h, const char *name, struct err *e)
{
	if (!w || !h || w > MAX_PIXELS || h > MAX_PIXELS || w * h > MAX_PIXELS)
		return err_set(e, "%s: an image of %llu x %llu pixels is not accepted (at most 64 Mpixel)",
			       name, (unsigned long long)w, (unsigned long long)h);
	return 0;
}

/* ---- which way is up ---- */

/* The number of n bytes in TIFF's order. */
static uint32_t tiff_number(const uint8_t *p, size_t n, bool little)
{
	uint32_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[little ? n - 1 - i : i];
	return v;
}

/* EXIF's orientation, 1 to 8, of a block that begins with TIFF's header; 1 (upright) when it does not say. */
static int exif_orientation(const uint8_t *data, size_t size)
{
	bool little = size >= 8 && !memcmp(data, "II*", 4);
	uint32_t at, n;

	if (size < 8 || (!little && memcmp(data, "MM\0*", 4) != 0))
		return 1;
	at = tiff_number(data + 4, 4, little);
	if (at > size - 2)
		return 1;
	n = tiff_number(data + at, 2, little);
	for (at += 2; n && at <= size && size - at >= 12; n--, at += 12) {
		uint32_t v = tiff_number(data + at + 8, 2, little);

		if (tiff_number(data + at, 2, little) == 0x112) /* a SHORT */
			return v >= 1 && v <= 8 && tiff_number(data + at + 2, 2, little) == 3 ? (int)v : 1;
	}
	return 1;
}

/* The chunk eXIf, wherever in the file it is. */
static int png_orientation(const uint8_t *data, size_t size)
{
	for (size_t at = 8; size - at >= 12;) {
		size_t n = tiff_number(data + at, 4, false);

		if (n > size - at - 12)
			break;
		if (!memcmp(data + at + 4, "eXIf", 4))
			return exif_orientation(data + at + 8, n);
		at += n + 12;
	}
	return 1;
}

static int jpeg_orientation(const struct jpeg_decompress_struct *d)
{
	for (const struct jpeg_marker_struct *m = d->marker_list; m; m = m->next)
		if (m->marker == JPEG_APP0 + 1 && m->data_length > 6 && !memcmp(m->data, "Exif\0", 6))
			return exif_orientation(m->data + 6, m->data_length - 6);
	return 1;
}

/* Upright; the pixels, too, where there are any. */
static void turn(struct image *im, int orientation)
{
	bool lies = orientation > 4; /* rows become columns */
	int w = lies ? im->h : im->w, h = lies ? im->w : im->h;
	bool right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
	bool bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;

	if (orientation == 1)
		return;
	uint8_t *out = im->rgb ? mem_alloc((size_t)w * (size_t)h * 3) : NULL;
	for (int y = 0; y < h && out; y++)
		for (int x = 0; x < w; x++) {
			int from_x = lies ? y : x, from_y = lies ? x : y;

			from_x = right ? im->w - 1 - from_x : from_x;
			from_y = bottom ? im->h - 1 - from_y : from_y;
			memcpy(out + 3 * ((size_t)y * (size_t)w + (size_t)x),
			       im->rgb + 3 * ((size_t)from_y * (size_t)im->w + (size_t)from_x), 3);
		}
	free(im->rgb);
	*im = (struct image) { .w = w, .h = h, .rgb = out };
}

/* ---- PNG and JPEG ---- */

/* libpng's simplified reader would apply gAMA and blend alpha, and so change the scores of an image by what
 * is written beside it; the full one reports errors by a callback that must not return. */
struct png_trap {
	jmp_buf out;
	char msg[120];
};

static void png_trap_error(png_structp png, png_const_charp msg)
{
	struct png_trap *t = png_get_error_ptr(png);

	snprintf(t->msg, sizeof t->msg, "%s", msg);
	longjmp(t->out, 1);
}

static void png_trap_warning(png_structp png, png_const_charp msg)
{
	(void)png, (void)msg;
}

struct bytes {
	const uint8_t *at;
	size_t left;
};

static void png_take(png_structp png, png_bytep to, size_t n)
{
	struct bytes *b = png_get_io_ptr(png);

	if (n > b->left)
		png_error(png, "the file is cut off");
	memcpy(to, b->at, n);
	b->at += n;
	b->left -= n;
}

/* Every kind of samples as 8-bit RGB, as they are: 16 bits lose their lower half, alpha is dropped. */
static void png_as_rgb(png_structp png, png_infop info)
{
	if (png_get_bit_depth(png, info) == 16)
		png_set_strip_16(png);
	if (png_get_color_type(png, info) == PNG_COLOR_TYPE_PALETTE)
		png_set_palette_to_rgb(png);
	else
		png_set_expand_gray_1_2_4_to_8(png);
	png_set_gray_to_rgb(png);
	png_set_strip_alpha(png);
	png_set_interlace_handling(png);
	png_read_update_info(png, info);
}

static void png_rows(png_structp png, png_bytepp rows, struct image *im)
{
	for (int y = 0; y < im->h; y++)
		rows[y] = im->rgb + (size_t)y * (size_t)im->w * 3;
	png_read_image(png, rows);
}

/* The size; the pixels as well when `pixels`. */
static int read_png(struct image *im, bool pixels, const uint8_t *data, size_t size, const char *name,
		    struct err *e)
{
	struct png_trap trap;
	struct bytes in = { data, size };
	png_structp png =
	    png_create_read_struct(PNG_LIBPNG_VER_STRING, &trap, png_trap_error, png_trap_warning);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	png_bytepp volatile rows = NULL;
	int ret = 0;

	if (!info)
		die("out of memory for libpng");
	if (setjmp(trap.out)) {
		png_destroy_read_struct(&png, &info, NULL);
		free(rows);
		image_free(im);
		return err_set(e, "%s: not a valid PNG: %s", name, trap.msg);
	}
	png_set_read_fn(png, &in, png_take);
	/* profiles and comments are not inflated: they may be bombs, and nothing reads them */
	png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
	png_set_user_limits(png, MAX_PIXELS, MAX_PIXELS);
	png_read_info(png, info);
	im->w = (int)png_get_image_width(png, info);
	im->h = (int)png_get_image_height(png, info);
	ret = check_size((uint64_t)im->w, (uint64_t)im->h, name, e);
	if (!ret && pixels) {
		png_as_rgb(png, info);
		im->rgb = mem_alloc((size_t)im->w * (size_t)im->h * 3);
		rows = mem_zero((size_t)im->h, sizeof *rows);
		png_rows(png, rows, im);
	}
	png_destroy_read_struct(&png, &info, NULL);
	free(rows);
	if (!ret)
		turn(im, png_orientation(data, size));
	return ret;
}

/* libjpeg reports errors by a callback that must not return. */
struct jpeg_trap {
	struct jpeg_error_mgr mgr;
	jmp_buf out;
	char msg[JMSG_LENGTH_MAX];
};

static void jpeg_trap_error(j_common_ptr c)
{
	struct jpeg_trap *t = (struct jpeg_trap *)c->err;
	t->mgr.format_message(c, t->msg);
	longjmp(t->out, 1);
}

static void jpeg_trap_message(j_common_ptr c)
{
	(void)c;
}

/* libjpeg paints what is missing grey and only warns; an image that is scored must be whole. */
static void jpeg_trap_warning(j_common_ptr c, int level)
{
	if (level < 0 && (c->err->msg_code == JWRN_JPEG_EOF || c->err->msg_code == JWRN_HIT_MARKER ||
			  c->err->msg_code == JWRN_HUFF_BAD_CODE))
		jpeg_trap_error(c);
}

static void jpeg_trap_scans(j_common_ptr c)
{
	struct jpeg_trap *t = (struct jpeg_trap *)c->err;

	if (((j_decompress_ptr)c)->input_scan_number <= MAX_SCANS)
		return;
	snprintf(t->msg, sizeof t->msg, "more than %d scans", MAX_SCANS);
	longjmp(t->out, 1);
}

static struct jpeg_error_mgr *jpeg_trap_init(struct jpeg_trap *t)
{
	jpeg_std_error(&t->mgr);
	t->mgr.error_exit = jpeg_trap_error;
	t->mgr.emit_message = jpeg_trap_warning;
	t->mgr.output_message = jpeg_trap_message;
	return &t->mgr;
}

/* A byte times a share of 255, rounded. */
static int share(int v, int of)
{
	int x = v * of + 128;

	return (x + (x >> 8)) >> 8;
}

/* A line of inks as Adobe writes them, 255 for none. */
static void rgb_of_cmyk(uint8_t *rgb, const uint8_t *cmyk, int w)
{
	for (int x = 0; x < w; x++, rgb += 3, cmyk += 4)
		for (int c = 0; c < 3; c++)
			rgb[c] = (uint8_t)(cmyk[3] - share(255 - cmyk[c], cmyk[3]));
}

static void jpeg_rows(struct jpeg_decompress_struct *d, struct image *im)
{
	bool inks = d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK;
	size_t row = (size_t)im->w * 3;
	JSAMPARRAY line;

	d->out_color_space = inks ? JCS_CMYK : JCS_RGB;
	jpeg_start_decompress(d);
	line = d->mem->alloc_sarray((j_common_ptr)d, JPOOL_IMAGE, (JDIMENSION)im->w * 4, 1);
	im->rgb = mem_alloc((size_t)im->h * row);
	while (d->output_scanline < d->output_height) {
		JSAMPROW to = im->rgb + (size_t)d->output_scanline * row;

		jpeg_read_scanlines(d, inks ? line : &to, 1);
		if (inks)
			rgb_of_cmyk(to, line[0], im->w);
	}
	jpeg_finish_decompress(d);
}

static int read_jpeg(struct image *im, bool pixels, const uint8_t *data, size_t size, const char *name,
		     struct err *e)
{
	struct jpeg_progress_mgr watch = { .progress_monitor = jpeg_trap_scans };
	struct jpeg_decompress_struct d;
	struct jpeg_trap trap;

	d.err = jpeg_trap_init(&trap);
	if (setjmp(trap.out)) {
		jpeg_destroy_decompress(&d);
		image_free(im);
		return err_set(e, "%s: not a valid JPEG: %s", name, trap.msg);
	}
	jpeg_create_decompress(&d);
	d.progress = &watch;
	jpeg_mem_src(&d, data, (unsigned long)size);
	jpeg_save_markers(&d, JPEG_APP0 + 1, 0xffff);
	jpeg_read_header(&d, TRUE);
	im->w = (int)d.image_width;
	im->h = (int)d.image_height;
	int ret = check_size(d.image_width, d.image_height, name, e), orientation = jpeg_orientation(&d);
	if (!ret && pixels)
		jpeg_rows(&d, im);
	jpeg_destroy_decompress(&d);
	if (!ret)
		turn(im, orientation);
	return ret;
}

static int read_any(struct image *im, bool pixels, const void *data, size_t size, const char *name,
		    struct err *e)
{
	*im = (struct image) { 0 };
	if (size >= 8 && !memcmp(data, "\x89PNG\r\n\x1a\n", 8))
		return read_png(im, pixels, data, size, name, e);
	if (size >= 3 && !memcmp(data, "\xff\xd8\xff", 3))
		return read_jpeg(im, pixels, data, size, name, e);
	return err_set(e, "%s: neither PNG nor JPEG", name);
}

int image_decode(struct image *im, const void *data, size_t size, const char *name, struct err *e)
{
	return read_any(im, true, data, size, name, e);
}

int image_size(int *w, int *h, const void *data, size_t size, const char *name, struct err *e)
{
	struct image im;

	if (read_any(&im, false, data, size, name, e))
		return -1;
	*w = im.w;
	*h = im.h;
	return 0;
}

int image_read(struct image *im, const char *path, struct err *e)
{
	struct file_map m;
	int ret;

	*im = (struct image) { 0 };
	if (file_map(&m, path, e))
		return -1;
	ret = image_decode(im, m.data, m.size, path, e);
	file_unmap(&m);
	return ret;
}

int image_jpeg(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb, int quality, struct err *e)
{
	struct jpeg_compress_struct c;
	struct jpeg_trap trap;
	unsigned char *buf = NULL;
	unsigned long n = 0;

	c.err = jpeg_trap_init(&trap);
	if (setjmp(trap.out)) {
		jpeg_destroy_compress(&c);
		free(buf);
		*out = NULL;
		return err_set(e, "cannot encode an image of %d x %d: %s", w, h, trap.msg);
	}
	jpeg_create_compress(&c);
	jpeg_mem_dest(&c, &buf, &n);
	c.image_width = (JDIMENSION)w;
	c.image_height = (JDIMENSION)h;
	c.input_components = 3;
	c.in_color_space = JCS_RGB;
	jpeg_set_defaults(&c); /* 4:2:0, as PIL's default */
	jpeg_set_quality(&c, quality, TRUE);
	jpeg_start_compress(&c, TRUE);
	while (c.next_scanline < c.image_height) {
		JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + (size_t)c.next_scanline * (size_t)w * 3);
		jpeg_write_scanlines(&c, &row, 1);
	}
	jpeg_finish_compress(&c);
	jpeg_destroy_compress(&c);
	*out = buf;
	*size = n;
	return 0;
}

struct image image_grid(const uint8_t *const *rgb, int n, int w, int h, int cols, int gap, int zoom)
{
	int across = n < cols ? n : cols, down = (n + cols - 1) / cols, cw = w * zoom + gap,
	    ch = h * zoom + gap;
	struct image g = { .w = across * cw + gap, .h = down * ch + gap };

	g.rgb = mem_alloc((size_t)g.w * (size_t)g.h * 3);
	memset(g.rgb, 128, (size_t)g.w * (size_t)g.h * 3);
	for (int i = 0; i < n; i++) {
		int x0 = gap + i % cols * cw, y0 = gap + i / cols * ch;
		for (int y = 0; y < h * zoom; y++)
			for (int x = 0; x < w * zoom; x++)
				memcpy(g.rgb + 3 * ((size_t)(y0 + y) * (size_t)g.w + (size_t)(x0 + x)),
				       rgb[i] + 3 * ((size_t)(y / zoom) * (size_t)w + (size_t)(x / zoom)), 3);
	}
	return g;
}
