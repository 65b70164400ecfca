/*
 * decoder_probe.c -- golden_decoder FOLDER IN OUT DTYPE STATE...: hidden states of a text decoder, "0", "1",
 * ... in the order of the STATEs, of the ids (B, L) in IN; of their "lengths" (B), where it has them, tokens
 * count.
 */
#include "aten/safetensors.h"
#include "base/mem.h"
#include "models/text/decoder/decoder.h"
#include <stdlib.h>

static void need(int failed, const struct err *e)
{
	if (failed)
		die("%s", e->msg);
}

int main(int argc, char **argv)
{
	int64_t states[DECODER_STATES];
	int n = argc - 5;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t ids_BL = NULL, length_B = NULL, out[DECODER_STATES];
	struct st_item item[DECODER_STATES];
	struct decoder m;
	struct st_file f;
	enum at_dtype dt;
	struct err e;

	if (n < 1 || n > DECODER_STATES)
		die("golden_decoder: FOLDER IN OUT DTYPE STATE...");
	for (int i = 0; i < n; i++)
		states[i] = atoll(argv[5 + i]);
	need(at_dtype_parse(&dt, argv[4], &e) || decoder_open(&m, argv[1], n, states, dt, AT_CPU, &e) ||
		 st_open(&f, argv[2], &e) || st_take(&ids_BL, &f, "ids", (struct at_dims) { 0 }, &e),
	     &e);
	if (st_find(&f, "lengths"))
		need(st_take(&length_B, &f, "lengths", (struct at_dims) { 0 }, &e), &e);
	decoder_forward(&m, ids_BL, length_B ? at_i64(length_B) : NULL, out);
	for (int i = 0; i < n; i++)
		item[i] = (struct st_item) { mem_printf("%d", i), out[i] };
	need(st_write(argv[3], item, n, NULL, 0, &e), &e);
	for (int i = 0; i < n; i++)
		free((char *)item[i].name);
	st_close(&f);
	at_end(s);
	decoder_release(&m);
	return 0;
}
