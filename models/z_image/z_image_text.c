/* z_image_text.c -- Z-Image's conditioning: the last but one hidden state of Qwen3, of the prompt within one
 * turn of a conversation. */
#include "models/text/decoder/decoder_text.h"
#include "models/z_image/z_dit.h"
#include "models/z_image/z_image.h"

static const struct decoder_prompt turn = {
	.before = "<|im_start|>user\n",
	.after = "<|im_end|>\n<|im_start|>assistant\n",
	.rows = 512,
	.states = 1,
	.state = { -2 },
};

static int open_text(void **state, const struct text_options *o, struct err *e)
{
	return decoder_text_open(state, &turn, o, e);
}

static int hash_text(uint64_t *hash, const struct text_options *o, struct err *e)
{
	return decoder_text_hash(hash, &turn, o, e);
}

/* Rows are filled up to as many as the transformer computes: of prompts of like lengths a GPU replays one and
 * the same forward. */
static int encode_text(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond c = { 0 }, exact;
	at_t length_B, rows_BLE;

	if (decoder_text_encode(state, prompts, n, &exact, e)) {
		at_end(s);
		return -1;
	}
	rows_BLE = cond_get(&exact, COND_TEXT, &length_B);
	int64_t L = at_size(rows_BLE, 1);
	if (!length_B)
		length_B = at_full(DIMS(n), (double)L, AT_I64, at_device_of(rows_BLE));
	cond_add(&c, COND_TEXT, at_pad(rows_BLE, DIMS(0, 0, 0, z_dit_filled(L) - L), 0), length_B);
	cond_escape(s, &c);
	*out = c;
	at_end(s);
	return 0;
}

const struct text_encoder_type z_image_text_encoder = {
	.class_name = "Qwen3Model",
	.open = open_text,
	.hash = hash_text,
	.encode = encode_text,
	.tokenize = decoder_text_tokenize,
	.close = decoder_text_close,
};
