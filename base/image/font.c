#include "base/image/font.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define COLUMNS 5 /* of a glyph; one between two */
#define ROWS    9 /* seven down to the line that letters stand on, two below it */
#define UNKNOWN 0x7f

/* ASCII from the space on, sixteen characters a block; the last is the box of what cannot be drawn. */
/* clang-format off */
static const char *const glyphs[6 * ROWS] = {
	"        #    # #   # #    #   ##  #  ##     #      #   #                                      #",
	"        #    # #   # #   #### ##  # #  #    #     #     #     #     #                         #",
	"        #    # #  ##### # #      #  # #     #    #       #  # # #   #                        # ",
	"        #          # #   ###    #    #           #       #   ###  #####        ###          #  ",
	"        #         #####   # #  #    # # #        #       #  # # #   #                      #   ",
	"                   # #  ####  #  ## #  #          #     #     #     #    ##          ##   #    ",
	"        #          # #    #   #  ##  ## #          #   #                  #          ##   #    ",
	"                                                                         #                     ",
	"                                                                                               ",
	" ###    #    ###   ###     #  #####   ##  #####  ###   ###                 #         #     ### ",
	"#   #  ##   #   # #   #   ##  #      #        # #   # #   #  ##    ##     #           #   #   #",
	"#  ##   #       #     #  # #  ####  #        #  #   # #   #  ##    ##    #    #####    #      #",
	"# # #   #     ##    ##  #  #      # ####    #    ###   ####             #               #    # ",
	"##  #   #    #        # #####     # #   #   #   #   #     #  ##          #    #####    #    #  ",
	"#   #   #   #     #   #    #  #   # #   #  #    #   #    #   ##    ##     #           #        ",
	" ###   ###  #####  ###     #   ###   ###   #     ###   ##           #      #         #      #  ",
	"                                                                   #                           ",
	"                                                                                               ",
	" ###   ###  ####   ###  ####  ##### #####  ###  #   #  ###    ### #   # #     #   # #   #  ### ",
	"#   # #   # #   # #   # #   # #     #     #   # #   #   #      #  #  #  #     ## ## ##  # #   #",
	"# ### #   # #   # #     #   # #     #     #     #   #   #      #  # #   #     # # # # # # #   #",
	"# # # ##### ####  #     #   # ####  ####  # ### #####   #      #  ##    #     # # # # # # #   #",
	"# ### #   # #   # #     #   # #     #     #   # #   #   #      #  # #   #     #   # #  ## #   #",
	"#     #   # #   # #   # #   # #     #     #   # #   #   #   #  #  #  #  #     #   # #   # #   #",
	" #### #   # ####   ###  ####  ##### #      #### #   #  ###   ##   #   # ##### #   # #   #  ### ",
	"                                                                                               ",
	"                                                                                               ",
	"####   ###  ####   #### ##### #   # #   # #   # #   # #   # #####  ###  #      ###    #        ",
	"#   # #   # #   # #       #   #   # #   # #   # #   # #   #     #  #    #        #   # #       ",
	"#   # #   # #   # #       #   #   # #   # #   #  # #   # #     #   #     #       #  #   #      ",
	"####  #   # ####   ###    #   #   # #   # # # #   #     #     #    #      #      #             ",
	"#     # # # # #       #   #   #   # #   # # # #  # #    #    #     #       #     #             ",
	"#     #  #  #  #      #   #   #   #  # #  # # # #   #   #   #      #        #    #             ",
	"#      ## # #   # ####    #    ###    #    # #  #   #   #   #####  ###      #  ###             ",
	"                                                                                          #####",
	"                                                                                               ",
	" #          #               #         ##        #       #      #  #      ##                    ",
	"  #         #               #        #          #                 #       #                    ",
	"   #   ###  ####   ###   ####  ###  ###    #### # ##   ##     ##  #  #    #   ## #  # ##   ### ",
	"          # #   # #   # #   # #   #  #    #   # ##  #   #      #  # #     #   # # # ##  # #   #",
	"       #### #   # #     #   # #####  #    #   # #   #   #      #  ##      #   # # # #   # #   #",
	"      #   # #   # #   # #   # #      #    #   # #   #   #      #  # #     #   # # # #   # #   #",
	"       #### ####   ###   ####  ###   #     #### #   #  ###     #  #  #   ###  # # # #   #  ### ",
	"                                              #             #  #                               ",
	"                                           ###               ##                                ",
	"                         #                                          ##    #    ##         #####",
	"                         #                                          #     #     #         #   #",
	"####   #### # ##   #### ###   #   # #   # #   # #   # #   # #####   #     #     #    #    #   #",
	"#   # #   # ##  # #      #    #   # #   # #   #  # #  #   #    #   #      #      #  # # # #   #",
	"#   # #   # #      ###   #    #   # #   # # # #   #   #   #   #     #     #     #      #  #   #",
	"#   # #   # #         #  #    #  ##  # #  # # #  # #  #   #  #      #     #     #         #   #",
	"####   #### #     ####    ##   ## #   #    # #  #   #  #### #####   ##    #    ##         #####",
	"#         #                                               #               #                    ",
	"#         #                                            ###                #                    ",};
/* clang-format on */

static bool is_ink(char c, int x, int y)
{
	int at = c - ' ';

	return glyphs[at / 16 * ROWS + y][at % 16 * (COLUMNS + 1) + x] == '#';
}

/* The character of ASCII that stands for one that has no marks left; 0: there is none. */
static char stand_in(int32_t c)
{
	if (c >= ' ' && c < UNKNOWN)
		return (char)c;
	if (c == '\n' || c == '\t' || c == 0xa0)
		return ' ';
	if (c >= 0x2010 && c <= 0x2015)
		return '-';
	if (c == 0x2018 || c == 0x2019)
		return '\'';
	return c == 0x201c || c == 0x201d ? '"' : 0;
}

char *font_text(const char *utf8)
{
	utf8proc_uint8_t *plain = NULL;
	struct text out = { 0 };
	utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)utf8, 0, &plain,
					  UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
					      UTF8PROC_COMPAT | UTF8PROC_STRIPMARK);
	const utf8proc_uint8_t *s = n < 0 ? (const utf8proc_uint8_t *)utf8 : plain;

	text_add(&out, "");
	for (utf8proc_ssize_t left = (utf8proc_ssize_t)strlen((const char *)s); left > 0;) {
		utf8proc_int32_t c;
		utf8proc_ssize_t used = utf8proc_iterate(s, left, &c);
		char as = used < 0 ? 0 : stand_in(c);

		used = used < 0 ? 1 : used;
		text_add_bytes(&out, as ? &as : &(char) { UNKNOWN }, 1);
		s += used;
		left -= used;
	}
	free(plain);
	return out.s;
}

static void fill(struct image *im, int x0, int y0, int side, const uint8_t rgb[3])
{
	for (int y = y0; y < y0 + side; y++)
		for (int x = x0; x < x0 + side; x++)
			if (x >= 0 && x < im->w && y >= 0 && y < im->h)
				memcpy(im->rgb + 3 * ((size_t)y * (size_t)im->w + (size_t)x), rgb, 3);
}

void font_draw(struct image *im, int x, int y, int scale, const char *s, size_t n, const uint8_t rgb[3])
{
	for (size_t i = 0; i < n; i++, x += (COLUMNS + 1) * scale)
		for (int row = 0; row < ROWS; row++)
			for (int column = 0; column < COLUMNS; column++)
				if (is_ink(s[i], column, row))
					fill(im, x + column * scale, y + row * scale, scale, rgb);
}
