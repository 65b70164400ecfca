/* qwen_image_text.c -- Qwen-Image's conditioning, as QwenImagePipeline's encode_prompt makes it: the last
 * states of Qwen2.5-VL, which is asked to describe the prompt; those of the question are left out. */
#include "models/qwen_image/qwen_image.h"
#include "models/text/decoder/decoder_text.h"

#define QUESTION_TOKENS 34   /* before the prompt, by the published vocabulary; so many rows go in any case */
#define PROMPT_TOKENS   1024 /* behind these, what follows the prompt included */
#define ROWS            512  /* of the stock pipeline */

static const struct decoder_prompt how = {
	.before = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
		  "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
		  "<|im_start|>user\n",
	.after = "<|im_end|>\n<|im_start|>assistant\n",
	.rows = ROWS,
	.tokens = PROMPT_TOKENS + QUESTION_TOKENS,
	.drop = QUESTION_TOKENS,
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

const struct text_encoder_type qwen_image_text_encoder = {
	.class_name = "Qwen2_5_VLForConditionalGeneration",
	.open = open_text,
	.hash = hash_text,
	.encode = decoder_text_encode,
	.tokenize = decoder_text_tokenize,
	.close = decoder_text_close,
};
