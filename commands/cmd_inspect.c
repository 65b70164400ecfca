/* cmd_inspect.c -- contraflow inspect: what is in a safetensors file, an adapter or a checkpoint. */
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "models/lora/lora_file.h"
#include "models/lora/lora_raw.h"
#include "trainer/record/adapters.h"
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

/* A name or a value from a file, which may hold a terminal's control sequences. */
static void print_tame(const char *before, const char *s, const char *after)
{
	char *copy = mem_printf("%.200s", s);

	text_tame(copy);
	printf("%s%s%s", before, copy, after);
	free(copy);
}

/* Types of our own under our names, others under the format's. */
static const char *type_name(const struct st_entry *x)
{
	return st_known(x) && strncmp(x->type, "F8", 2) != 0 ? at_dtype_name(x->dtype) : x->type;
}

static void print_tensors(const struct st_file *f)
{
	size_t bytes = 0;
	int64_t elements = 0;

	for (int i = 0; i < f->n_meta; i++) {
		print_tame("  ", f->meta_key[i], ": ");
		print_tame("", f->meta_value[i], "\n");
	}
	for (int i = 0; i < f->n; i++) {
		const struct st_entry *x = &f->entry[i];
		int64_t n = 1;

		printf("  %-9s ", type_name(x));
		print_shape(&x->shape);
		print_tame(" ", x->name, "\n");
		bytes += x->end - x->begin;
		for (int k = 0; k < x->shape.n; k++)
			n *= x->shape.d[k];
		elements += n;
	}
	printf("  %d tensors, %lld elements, %zu bytes\n", f->n, (long long)elements, bytes);
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
	int ret = text_ends(path, ".zst") ? st_open_zstd(&f, path, e) : st_open(&f, path, e);

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

/* An adapter, what holds one (a checkpoint of other programs), or a run: its newest checkpoint. */
static int inspect_found(const char *path, struct err *e)
{
	char *lora = adapters_find(path, e);

	if (!lora)
		return -1;
	char *above = file_dir(lora);
	int ret = file_is_in(above, "state.json") && strcmp(lora, path) != 0 ? inspect_checkpoint(above, e)
									     : inspect_adapter(lora, e);
	free(above);
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
	return inspect_found(path, e);
}

const struct command cmd_inspect = {
	"inspect", "FILE.safetensors | ADAPTER_DIR | CHECKPOINT_DIR | RUN",
	"list what a safetensors file, an adapter, a checkpoint or a run's newest holds", run
};
