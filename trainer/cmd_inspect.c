/* cmd_inspect.c -- contraflow inspect: what is in a safetensors file, an adapter or a checkpoint. */
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "trainer/options.h"
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

/* Norm of (alpha / r) B A over all modules of an adapter. */
static double adapter_norm(const struct st_file *f, double scale)
{
	double sum = 0;

	for (int i = 0; i < f->n; i++) {
		const char *name = f->entry[i].name;
		if (!text_ends(name, ".lora_A.weight"))
			continue;
		struct at_scope *s = at_begin(AT_NO_GRAD);
		struct text other = { 0 };
		text_printf(&other, "%.*s.lora_B.weight", (int)(strlen(name) - strlen(".lora_A.weight")),
			    name);
		const struct st_entry *b = st_find(f, other.s);
		if (b) {
			at_t a = at_cast(st_get(&f->entry[i]), AT_F64),
			     ba = at_matmul(at_cast(st_get(b), AT_F64), a);
			sum += scale * scale * at_sum_squares(ba);
		}
		text_free(&other);
		at_end(s);
	}
	return sqrt(sum);
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
	printf("%s\n", path);
	print_tensors(&f);
	st_close(&f);
	return 0;
}

static int inspect_adapter(const char *dir, struct err *e)
{
	char *conf = file_join(dir, "adapter_config.json"),
	     *path = file_join(dir, "adapter_model.safetensors");
	json_t *j = json_read(conf, e);
	struct st_file f;
	int64_t rank;
	double alpha;
	int ret = j && !json_get_int(&rank, j, "r", 0, conf, e) &&
			  !json_get_real(&alpha, j, "lora_alpha", 0, conf, e) && !st_open(&f, path, e)
		      ? 0
		      : -1;

	if (!ret) {
		char *targets =
		    json_dumps(json_object_get(j, "target_modules"), JSON_COMPACT | JSON_ENCODE_ANY);
		printf("%s: a LoRA adapter, rank %lld, alpha %g, targets %s\n", dir, (long long)rank, alpha,
		       targets ? targets : "?");
		free(targets);
		print_tensors(&f);
		if (rank > 0)
			printf("  norm of the change of the weights %.6g\n",
			       adapter_norm(&f, alpha / (double)rank));
		st_close(&f);
	}
	json_decref(j);
	free(conf);
	free(path);
	return ret;
}

static int inspect_checkpoint(const char *dir, struct err *e)
{
	char *conf = file_join(dir, "state.json"), *state = file_join(dir, "state.safetensors.zst"),
	     *lora = file_join(dir, "lora");
	json_t *j = json_read(conf, e);
	int ret = -1;

	if (j) {
		char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS);
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

static bool has(const char *dir, const char *name)
{
	char *path = file_join(dir, name);
	bool yes = file_exists(path);
	free(path);
	return yes;
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
	if (has(path, "state.json"))
		return inspect_checkpoint(path, e);
	if (has(path, "adapter_config.json"))
		return inspect_adapter(path, e);
	return err_set(e, "%s: neither a checkpoint (state.json) nor an adapter (adapter_config.json)", path);
}

const struct command cmd_inspect = { "inspect", "FILE.safetensors | ADAPTER_DIR | CHECKPOINT_DIR",
				     "list what a file, an adapter or a checkpoint holds", run };
