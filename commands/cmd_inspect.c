/* cmd_inspect.c -- contraflow inspect: what is in a safetensors file, an adapter or a checkpoint. */
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "models/lora/lora_file.h"
#include "models/lora/lora_raw.h"
#include "commands/options.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_shape(const struct at_dims *s)
{
	printf("[");
	for (int i = 0; i < s->n; i++)
		printf("%s%lld", i ? ", " : "", (long long)s->d[i]);
	printf("]");
}

static void print_tensors(const struct st_file *f)
{
	size_t bytes = 0, elements = 0;

	for (int i = 0; i < f->n_meta; i++)
		printf("  %s: %.200s\n", f->meta_key[i], f->meta_value[i]);
	for (int i = 0; i < f->n; i++) {
		const struct st_entry *x = &f->entry[i];
		printf("  %-9s ", at_dtype_name(x->dtype));
		print_shape(&x->shape);
		printf(" %s\n", x->name);
		bytes += x->end - x->begin;
		elements += (x->end - x->begin) / at_dtype_size(x->dtype);
	}
	printf("  %d tensors, %zu elements, %zu bytes\n", f->n, elements, bytes);
}

/* Sum of squares of (alpha / rank) B A; 0 for a pair that is not whole or does not fit. */
static double squares(const struct lora_raw_pair *p)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	double sum = 0;

	if (p->a && p->b && p->a->shape.n == 2 && p->b->shape.n == 2 && p->a->shape.d[0] == p->b->shape.d[1])
		sum = lora_squares(st_get(p->a), st_get(p->b), p->size.alpha / (double)p->size.rank);
	at_end(s);
	return sum;
}

/* "transformer_blocks.3.attn.to_q" and "..._3_attn_to_q" -> with * for numbers between blocks: each once. */
static void print_targets(const struct lora_raw *r)
{
	struct text seen = { 0 };

	text_add(&seen, " ");
	for (int i = 0; i < r->n; i++) {
		const char *m = r->pair[i].module, *block = strstr(m, "blocks");
		const char *digit = block ? block + strlen("blocks") + 1 : NULL;
		size_t digits = digit ? strspn(digit, "0123456789") : 0;
		char *word = digits ? mem_printf(" %.*s*%s ", (int)(digit - m), m, digit + digits)
				    : mem_printf(" %s ", m);

		if (!strstr(seen.s, word))
			text_add(&seen, word + 1);
		free(word);
	}
	seen.s[seen.n - 1] = '\0';
	printf("  targets%s\n", seen.s);
	text_free(&seen);
}

static void print_sizes(const struct lora_raw *r)
{
	struct lora_size low = r->pair[0].size, high = low;
	double sum = 0;

	for (int i = 0; i < r->n; i++) {
		struct lora_size s = r->pair[i].size;

		low.rank = s.rank < low.rank ? s.rank : low.rank;
		high.rank = s.rank > high.rank ? s.rank : high.rank;
		low.alpha = fmin(low.alpha, s.alpha);
		high.alpha = fmax(high.alpha, s.alpha);
		sum += squares(&r->pair[i]);
	}
	if (low.rank == high.rank && low.alpha == high.alpha)
		printf("  rank %lld, alpha %g, %d modules\n", (long long)low.rank, low.alpha, r->n);
	else
		printf("  ranks %lld to %lld, alphas %g to %g, %d modules\n", (long long)low.rank,
		       (long long)high.rank, low.alpha, high.alpha, r->n);
	print_targets(r);
	printf("  norm of the change of the weights %.6g\n", sqrt(sum));
}

static int inspect_adapter(const char *path, struct err *e)
{
	struct lora_raw r;

	if (lora_raw_open(&r, path, e))
		return -1;
	printf("%s: a LoRA adapter in %s's layout\n", r.file.path, r.layout);
	print_tensors(&r.file);
	print_sizes(&r);
	lora_raw_close(&r);
	return 0;
}

/* Is there a tensor of a LoRA pair in it? */
static bool has_pairs(const struct st_file *f)
{
	for (int i = 0; i < f->n; i++)
		if (strstr(f->entry[i].name, ".lora_") || strstr(f->entry[i].name, ".lora."))
			return true;
	return false;
}

static int inspect_tensors(const char *path, struct err *e)
{
	struct st_file f;
	char *data;
	size_t n;
	int ret;

	if (text_ends(path, ".zst"))
		ret = file_read_zstd(&data, &n, path, e) || st_open_bytes(&f, data, n, path, e) ? -1 : 0;
	else
		ret = st_open(&f, path, e);
	if (ret)
		return -1;
	struct err why;
	bool pairs = has_pairs(&f), adapter = pairs && !inspect_adapter(path, &why);

	/* what only looks like an adapter, or is one of a kind that is not supported, is still a file */
	if (!adapter) {
		printf("%s\n", path);
		print_tensors(&f);
	}
	if (pairs && !adapter)
		printf("  no adapter that can be used: %s\n", why.msg);
	st_close(&f);
	return 0;
}

static int inspect_checkpoint(const char *dir, struct err *e)
{
	char *conf = file_join(dir, "state.json"), *state = file_join(dir, "state.safetensors.zst"),
	     *lora = file_join(dir, "lora");
	json_t *j = json_read(conf, e);
	int ret = -1;

	if (j) {
		char *text = json_text(j, JSON_INDENT(2));
		printf("%s: a checkpoint\n%s\n", dir, text);
		free(text);
		ret = inspect_tensors(state, e) || inspect_adapter(lora, e) ? -1 : 0;
	}
	json_decref(j);
	free(conf);
	free(state);
	free(lora);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *path;
	const struct option_spec spec[] = { { NULL, 0, NULL, NULL, NULL } };
	int n, ret = options_parse(&cmd_inspect, spec, argc, argv, &path, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "inspect: usage: contraflow inspect %s", cmd_inspect.usage);
	if (!file_exists(path))
		return err_set(e, "%s: there is no such file or directory", path);
	if (!file_is_dir(path))
		return inspect_tensors(path, e);
	if (file_is_in(path, "state.json"))
		return inspect_checkpoint(path, e);
	if (lora_raw_is(path))
		return inspect_adapter(path, e);
	return err_set(e,
		       "%s: neither a checkpoint (state.json) nor an adapter (" LORA_PEFT_CONFIG
		       ", " LORA_DIFFUSERS_WEIGHTS ")",
		       path);
}

const struct command cmd_inspect = { "inspect", "FILE.safetensors | ADAPTER_DIR | CHECKPOINT_DIR",
				     "list what a safetensors file, an adapter or a checkpoint holds", run };
