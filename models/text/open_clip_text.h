/*
 * open_clip_text.h -- what open_clip makes of a prompt before it cuts it into tokens (its clean function
 * "lower").
 *
 * ftfy.fix_text, html.unescape twice, runs of white space as one blank, none at the ends, lower case.  Of
 * ftfy: entities, control characters of Latin-1 as Windows-1252's, ligatures, full and half width, curly
 * quotes, terminal escapes, control characters, NFC, again until nothing changes.  Not its repair of
 * mojibake, text that was decoded by the wrong table: that is a statistical guess from thousands of rules,
 * and prompts that need it are no prompts.
 */
#ifndef OPEN_CLIP_TEXT_H
#define OPEN_CLIP_TEXT_H
#include "base/text.h"

void open_clip_clean(struct text *out, const char *s, size_t n); /* appends; s is valid UTF-8 */

#endif
