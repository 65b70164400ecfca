/* sana_text.c -- SANA's conditioning, as SanaPipeline's encode_prompt makes it: the last states of Gemma 2,
 * which is told how to enhance a prompt; of the telling, two rows stay. */
#include "models/sana/sana.h"
#include "models/text/decoder/decoder_text.h"

#define ROWS 300 /* of the stock pipeline */

static const struct decoder_prompt how = {
	.before =
	    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions "
	    "suitable for image generation. Evaluate the level of detail in the user prompt:\n"
	    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and "
	    "spatial relationships to create vivid and concrete scenes.\n"
	    "- If the prompt is already detailed, refine and enhance the existing details slightly without "
	    "overcomplicating.\n"
	    "Here are examples of how to transform or refine prompts:\n"
	    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round "
	    "shape, "
	    "sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
	    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring "
	    "glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus "
	    "passing by towering glass skyscrapers.\n"
	    "Please generate only the enhanced description for the prompt below and avoid including any "
	    "additional commentary or evaluations:\n"
	    "User Prompt: ",
	.after = "",
	.rows = ROWS,
	.instructed = true,
	.gemma = true,
	.states = 1,
	.state = { -1 },
};

static int open_text(void **state, const struct text_options *o, struct err *e)
{
	return decoder_text_open(state, &how, o, e);
}

static int hash_text(uint64_t *hash, const struct text_options *o, struct err *e)
{
	return decoder_text_hash(hash, &how, o, e);
}

const struct text_encoder_type sana_text_encoder = {
	.class_name = "Gemma2Model",
	.marks_negative = true,
	.open = open_text,
	.hash = hash_text,
	.encode = decoder_text_encode,
	.tokenize = decoder_text_tokenize,
	.close = decoder_text_close,
};
