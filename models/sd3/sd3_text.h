/* sd3_text.h -- what Stable Diffusion 3's text encoders offer beyond a text_encoder_type. */
#ifndef SD3_TEXT_H
#define SD3_TEXT_H
#include "models/encoder.h"

/* The ids that the three encoders read: (n, 77), (n, 77), (n, t5_length); the third NULL without T5.  `state`
 * is what sd3_text_encoder's open made. */
int sd3_text_tokenize(void *state, const char *const *prompts, int n, at_t ids_BL[3], struct err *e);

#endif
