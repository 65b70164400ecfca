/* cmd_export.c -- contraflow export: an adapter for other programs, or a transformer with it inside. */
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "models/lora/lora_file.h"
#include "models/transformer.h"
#include "trainer/record/adapters.h"
#include "commands/options.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const formats[] = { "peft", "diffusers", "kohya", "merged", NULL };
enum { FORMAT_MERGED = 3 };

struct export_options {
	const char *source, *model, *format, *out, *dtype;
};

/* The type that the transformer's file has: a merged one is as large. */
static int type_of(enum at_dtype *dt, const char *dir, struct err *e)
{
	struct st_file f;

	if (st_open_model(&f, dir, NN_DIFFUSERS, NULL, e))
		return -1;
	*dt = f.n ? f.entry[f.n - 1].dtype : AT_F32;
	st_close(&f);
	return 0;
}

static int write_merged(const struct transformer *m, const struct lora *l, const char *out, enum at_dtype dt,
			struct err *e)
{
	struct lora_merged merged = { 0 };
	struct err ignored;
	char *temp;

	if (file_begin_tree(&temp, out, e))
		return -1;
	lora_merge(&merged, l);
	int ret = transformer_save(m, &merged, temp, dt, e) || file_sync_tree(temp, e) ||
			  file_rename_synced(temp, out, e)
		      ? -1
		      : 0;
	if (ret)
		file_remove_tree(temp, &ignored);
	lora_merged_release(&merged);
	free(temp);
	return ret;
}

static int export_adapter(const struct export_options *r, int format, const char *adapter, const char *model,
			  struct err *e)
{
	char *dir = file_join(model, "transformer");
	enum at_dtype dt = AT_F32;
	const struct transformer_type *type = NULL;
	struct transformer m = { 0 };
	struct lora l = { 0 };
	int ret = r->dtype                  ? at_dtype_parse(&dt, r->dtype, e)
		  : format == FORMAT_MERGED ? type_of(&dt, dir, e)
					    : 0;

	if (!ret)
		ret = (type = transformer_of(dir, e)) ? 0 : -1;
	if (!ret)
		ret = format == FORMAT_MERGED ? transformer_open(&m, type, dir, dt, AT_CPU, e)
					      : transformer_describe(&m, type, dir, e);
	if (!ret)
		ret = lora_load(&l, m.net, adapter, AT_CPU, e);
	if (!ret)
		ret = format == FORMAT_MERGED ? write_merged(&m, &l, r->out, dt, e)
					      : lora_export(&l, (enum lora_layout)format, r->out, dt, e);
	if (!ret)
		printf("%s: %s, %s, %d modules\n", r->out, formats[format], at_dtype_name(dt), l.n);
	if (!ret && format == FORMAT_MERGED && at_dtype_size(dt) == 2)
		printf("%s in the weights keeps %.1f %% of the adapter's change%s\n", at_dtype_name(dt),
		       100 * lora_survival(&l, dt),
		       lora_survival(&l, dt) < 0.99 ? ": --dtype float32 keeps all of it" : "");
	lora_release(&l);
	transformer_close(&m);
	free(dir);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct export_options r = { 0 };
	const struct option_spec spec[] = {
		{ "format", 's', &r.format, "NAME",
		  "peft, diffusers, kohya (ComfyUI, sd-scripts) or merged" },
		{ "o", 's', &r.out, "PATH",
		  "where it goes: a folder for peft and merged, else a .safetensors file" },
		{ "model", 's', &r.model, "DIR",
		  "the model that the adapter was trained on (default: the run's)" },
		{ "dtype", 's', &r.dtype, "TYPE",
		  "type of the numbers (default float32; merged: the model's)" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, format = 0, ret = options_parse(&cmd_export, spec, argc, argv, &r.source, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1 || !r.format || !r.out)
		return err_set(e, "export: usage: contraflow export %s", cmd_export.usage);
	while (formats[format] && strcmp(formats[format], r.format))
		format++;
	if (!formats[format])
		return err_set(e, "export: --format '%s': must be peft, diffusers, kohya or merged",
			       r.format);

	if (file_exists(r.out) || file_is_dir(r.out))
		return err_set(e, "%s exists already: remove it or choose another name", r.out);
	if (format == FORMAT_MERGED || format == LORA_PEFT ? file_can_fill(r.out, e)
							   : file_can_write(r.out, e))
		return err_in(e, "export");
	if ((ret = startup_open(&d, STARTUP_ALONE, e)))
		return ret;
	char *adapter = adapters_find(r.source, e), *model = NULL;
	if (adapter && !(model = r.model ? mem_str(r.model) : adapters_model(r.source, e)))
		err_in(e, "export");
	ret = adapter && model ? export_adapter(&r, format, adapter, model, e) : -1;
	free(adapter);
	free(model);
	return ret;
}

const struct command cmd_export = {
	"export", "RUN | CHECKPOINT | ADAPTER --format NAME -o PATH [--model DIR]",
	"export an adapter to diffusers, PEFT or ComfyUI, or merged into its model", run
};
