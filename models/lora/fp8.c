#include "models/lora/fp8.h"
#include "models/lora/lora.h"
#include "base/mem.h"
#include <stdlib.h>

/* The products over tokens: their sizes are multiples of 16, as the hardware asks. */
static bool rounds(const struct nn_site *t)
{
	return t->block >= 0 && t->reads != NN_SAMPLES && t->in % 16 == 0 && t->row[t->parts] % 16 == 0;
}

void fp8_round(struct fp8_weights *q, const struct nn_net *net, const struct lora_merged *merged)
{
	if (!q->n_site) {
		q->n_site = net->n_site;
		q->bytes_OI = mem_zero((size_t)net->n_site, sizeof *q->bytes_OI);
		q->scale_O = mem_zero((size_t)net->n_site, sizeof *q->scale_O);
	}
	for (int i = 0; i < q->n_site; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t w_OI = merged && merged->w[i] ? merged->w[i] : NULL, bytes, scale;

		/* the base's weights do not change: once is enough for those without a pair */
		if (!w_OI && !q->bytes_OI[i])
			w_OI = net->site[i].linear->w_OI;
		if (w_OI && rounds(&net->site[i])) {
			at_quantise_rows(w_OI, &bytes, &scale);
			if (!q->bytes_OI[i]) {
				q->bytes_OI[i] = at_keep(bytes);
				q->scale_O[i] = at_keep(scale);
			} else { /* in place: CUDA graphs read from here */
				at_copy_(q->bytes_OI[i], bytes);
				at_copy_(q->scale_O[i], scale);
			}
		}
		at_end(s);
	}
}

void fp8_release(struct fp8_weights *q)
{
	for (int i = 0; i < q->n_site; i++) {
		at_free(q->bytes_OI[i]);
		at_free(q->scale_O[i]);
	}
	free(q->bytes_OI);
	free(q->scale_O);
	*q = (struct fp8_weights) { 0 };
}
