/* An adapter of any layout: adapter_config.json up to the first zero byte (empty: there is none), behind it a
 * safetensors file. */
#include "base/file.h"
#include "models/lora/lora_file.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A block with all that layouts treat in their own way. */
static struct nn_net *network(void)
{
	static struct nn_net net;
	static struct nn_linear qkv, out, norm, last;
	static const char *const names[] = { "transformer_blocks.0.attn.to_q",
					     "transformer_blocks.0.attn.to_k",
					     "transformer_blocks.0.attn.to_v" };
	static const char *const one[] = { "transformer_blocks.0.attn.to_out.0", "norm_out.linear",
					   "proj_out" };

	if (!net.n_site) {
		nn_add_linear(&net, &qkv, 3, names, (int64_t[]) { 4, 4, 4 }, 4, true);
		nn_add_linear(&net, &out, 1, &one[0], (int64_t[]) { 4 }, 4, true);
		nn_add_linear(&net, &norm, 1, &one[1], (int64_t[]) { 8 }, 4, true);
		nn_add_linear(&net, &last, 1, &one[2], (int64_t[]) { 3 }, 4, true);
	}
	return &net;
}

void fuzz_one(const uint8_t *data, size_t size)
{
	const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
	size_t config = zero ? (size_t)(zero - data) : size, skip = config + (zero != NULL);
	char *path = file_join(fuzz_dir(), LORA_PEFT_CONFIG);
	struct lora l;
	struct err e;

	unlink(path);
	free(path);
	if (config)
		fuzz_file(LORA_PEFT_CONFIG, data, config);
	if (lora_load(&l, network(), fuzz_file(LORA_PEFT_WEIGHTS, data + skip, size - skip), AT_CPU, &e))
		return;
	/* whatever the values are, the pairs lie one behind the other in the flat vector */
	int64_t numel = 0;
	for (int i = 0; i < l.n; i++)
		numel += at_numel(l.pair[i].a_RI) + at_numel(l.pair[i].b_OR);
	if (l.n < 1 || numel != l.numel)
		abort();
	(void)lora_norm(&l);
	lora_release(&l);
}
