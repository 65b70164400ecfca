/*
 * cmd_probe.c -- contraflow probe: one component of a model on given tensors, for parity work.
 *
 * DIR needs only the folders of the component.  Outputs and taps are float32; taps are named "tap.NAME",
 * after diffusers' and transformers' modules (models/taps.h).
 */
#include "base/json.h"
#include "base/file.h"
#include "base/mem.h"
#include "models/sd3/mmdit.h"
#include "models/pipeline.h"
#include "models/sd3/sd3_text.h"
#include "models/taps.h"
#include "models/vae/vae.h"
#include "sampler/schedule.h"
#include "commands/options.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

struct probe {
	const char *component, *dir, *in, *out, *dtype_name, *device_name;
	int64_t t5_length, steps, batch;
	double shift;
	bool taps;
	enum at_dtype dtype;
	enum at_device device;
	struct st_file file; /* --in */
	struct taps result;  /* names and tensors to write */
};

static int input(at_t *t, const struct probe *p, const char *name, int dims, struct err *e)
{
	if (st_take(t, &p->file, name, (struct at_dims) { 0 }, e))
		return -1;
	if (at_ndim(*t) != dims)
		return err_set(e, "%s: tensor '%s' has %d dimensions where %d were expected", p->in, name,
			       at_ndim(*t), dims);
	*t = at_to(*t, at_dtype_of(*t), p->device);
	return 0;
}

static void output(struct probe *p, const char *name, at_t t)
{
	MEM_PUSH(p->result.item, p->result.n, p->result.cap) =
	    (struct st_item) { mem_str(name), at_keep(at_to(t, at_dtype_of(t), AT_CPU)) };
}

/* Runs the forward between these two when taps are wanted. */
static void start_taps(const struct probe *p, struct taps *taps)
{
	*taps = (struct taps) { 0 };
	if (p->taps)
		taps_open(taps);
}

static void stop_taps(struct probe *p, struct taps *taps)
{
	taps_close();
	for (int i = 0; i < taps->n; i++) {
		char *name = mem_printf("tap.%04d.%s", i, taps->item[i].name);
		output(p, name, taps->item[i].t);
		free(name);
	}
	taps_release(taps);
}

/* ---- Components ---------------------------------------------------------------------------------- */

static int check_transformer(const struct mmdit *m, const struct probe *p, const at_t in[4], struct err *e)
{
	int64_t patch = m->conf.patch_size, most = patch * m->conf.pos_embed_max_size;
	int64_t B = at_size(in[0], 0), H = at_size(in[0], 2), W = at_size(in[0], 3);

	if (at_size(in[0], 1) != m->conf.in_channels || H % patch || W % patch || H > most || W > most)
		return err_set(
		    e,
		    "%s: hidden_states must have %lld channels and sides that are multiples of %lld "
		    "up to %lld",
		    p->in, (long long)m->conf.in_channels, (long long)patch, (long long)most);
	if (at_size(in[1], 0) != B || at_size(in[2], 0) != B || at_size(in[3], 0) != B)
		return err_set(e, "%s: the inputs are not of one batch size", p->in);
	if (at_size(in[2], 2) != m->conf.joint_attention_dim ||
	    at_size(in[3], 1) != m->conf.pooled_projection_dim)
		return err_set(
		    e, "%s: encoder_hidden_states must have %lld channels, pooled_projections %lld", p->in,
		    (long long)m->conf.joint_attention_dim, (long long)m->conf.pooled_projection_dim);
	return 0;
}

static int transformer(struct probe *p, struct err *e)
{
	static const char *const name[] = { "hidden_states", "timestep", "encoder_hidden_states",
					    "pooled_projections" };
	static const int dims[] = { 4, 1, 3, 2 };
	char *folder = file_join(p->dir, "transformer");
	struct mmdit m = { 0 };
	struct taps taps;
	at_t in[4];
	int ret = 0;

	for (int i = 0; i < 4 && !ret; i++)
		ret = input(&in[i], p, name[i], dims[i], e);
	ret =
	    ret || mmdit_open(&m, folder, p->dtype, p->device, e) || check_transformer(&m, p, in, e) ? -1 : 0;
	if (!ret) {
		start_taps(p, &taps);
		at_t v =
		    mmdit_forward(&m, &(struct pass) { 0 }, at_cast(in[0], p->dtype), at_cast(in[1], AT_F32),
				  at_cast(in[2], p->dtype), at_cast(in[3], p->dtype));
		stop_taps(p, &taps);
		output(p, "sample", v);
	}
	mmdit_release(&m);
	free(folder);
	return ret;
}

static int vae(struct probe *p, bool encode, struct err *e)
{
	char *folder = file_join(p->dir, "vae");
	struct vae m = { 0 };
	struct taps taps;
	at_t x;
	int ret =
	    vae_open(&m, folder, p->dtype, p->device, e) || input(&x, p, encode ? "image" : "latents", 4, e)
		? -1
		: 0;
	int64_t channels = encode ? 3 : m.conf.latent_channels;

	if (!ret && (at_size(x, 1) != channels ||
		     (encode && (at_size(x, 2) % vae_scale(&m) || at_size(x, 3) % vae_scale(&m)))))
		ret = err_set(e, "%s: wanted %lld channels%s", p->in, (long long)channels,
			      encode ? " and sides that are multiples of the latents' scale" : "");
	if (!ret) {
		x = at_cast(x, p->dtype);
		start_taps(p, &taps);
		x = encode ? vae_encode(&m, x) : vae_decode(&m, x, p->batch);
		stop_taps(p, &taps);
		output(p, encode ? "latents" : "sample", x);
	}
	vae_release(&m);
	free(folder);
	return ret;
}

/* The metadata `prompts`: a JSON list of strings. */
static json_t *read_prompts(const struct probe *p, struct err *e)
{
	const char *text = st_meta(&p->file, "prompts");
	json_t *list, *x;
	size_t i;

	if (!text) {
		err_set(e, "%s: the metadata have no 'prompts', a JSON list", p->in);
		return NULL;
	}
	list = json_parse(text, strlen(text), p->in, e);
	json_array_foreach(list, i, x)
	{
		if (!json_is_string(x) || strlen(json_string_value(x)) != json_string_length(x)) {
			err_set(e, "%s: prompts[%zu] is not a string (without zero bytes)", p->in, i);
			goto bad;
		}
	}
	if (list && json_array_size(list))
		return list;
	if (list)
		err_set(e, "%s: prompts is empty", p->in);
bad:
	json_decref(list);
	return NULL;
}

/* The transformer's text width where the directory has one; else T5's counts. */
static int64_t text_width(const struct probe *p)
{
	char *folder = file_join(p->dir, "transformer"), *path = file_join(folder, "config.json");
	int64_t width = 0;
	struct err ignored;

	if (file_exists(path)) {
		json_t *o = json_read(path, &ignored);
		if (o && json_get_int(&width, o, "joint_attention_dim", 0, path, &ignored))
			width = 0;
		json_decref(o);
	}
	free(folder);
	free(path);
	return width;
}

static int text(struct probe *p, bool ids_only, struct err *e)
{
	static const char *const name[] = { "input_ids", "input_ids_2", "input_ids_3" };
	struct text_options o = { p->dir, p->t5_length, text_width(p), p->dtype, p->device };
	json_t *list = read_prompts(p, e);
	int n = (int)json_array_size(list), ret = -1;
	const char **prompt = mem_zero((size_t)n + 1, sizeof *prompt);
	void *state = NULL;
	struct taps taps;
	struct cond c;
	at_t ids[3];

	for (int i = 0; i < n; i++)
		prompt[i] = json_string_value(json_array_get(list, (size_t)i));
	if (!list || sd3_text_encoder.open(&state, &o, e))
		goto out;
	if (ids_only) {
		ret = sd3_text_tokenize(state, prompt, n, ids, e);
		for (int i = 0; i < 3 && !ret; i++)
			if (ids[i])
				output(p, name[i], ids[i]);
	} else {
		start_taps(p, &taps);
		ret = sd3_text_encoder.encode(state, prompt, n, &c, e);
		stop_taps(p, &taps);
		if (!ret) {
			output(p, "prompt_embeds", c.text_BLE);
			output(p, "pooled_prompt_embeds", c.pooled_BP);
		}
	}
	sd3_text_encoder.close(state);
out:
	free(prompt);
	json_decref(list);
	return ret;
}

static int schedule(struct probe *p, struct err *e)
{
	char *folder = file_join(p->dir, "scheduler"), *path = file_join(folder, "scheduler_config.json");
	double shift = 1;
	int64_t train_steps = 1000;
	int ret = pipeline_read_scheduler(&shift, &train_steps, path, e);
	struct schedule s;

	if (!ret) {
		schedule_init(&s, p->shift > 0 ? p->shift : shift, train_steps, (int)p->steps, false);
		output(p, "timesteps", at_from(s.t, DIMS(s.steps), AT_F64));
		output(p, "sigmas", at_from(s.sigma, DIMS(s.steps + 1), AT_F64));
		schedule_free(&s);
	}
	free(folder);
	free(path);
	return ret;
}

static int run_component(struct probe *p, struct err *e)
{
	if (!strcmp(p->component, "transformer"))
		return transformer(p, e);
	if (!strcmp(p->component, "vae-decode"))
		return vae(p, false, e);
	if (!strcmp(p->component, "vae-encode"))
		return vae(p, true, e);
	if (!strcmp(p->component, "text"))
		return text(p, false, e);
	if (!strcmp(p->component, "tokenize"))
		return text(p, true, e);
	if (!strcmp(p->component, "schedule"))
		return schedule(p, e);
	return err_set(
	    e,
	    "probe: no component '%s': there are transformer, vae-decode, vae-encode, text, tokenize "
	    "and schedule",
	    p->component);
}

/* ---- The command --------------------------------------------------------------------------------- */

static int write_result(const struct probe *p, struct err *e)
{
	struct st_item *item = mem_zero((size_t)p->result.n + 1, sizeof *item);
	int ret;

	for (int i = 0; i < p->result.n; i++) {
		at_t t = p->result.item[i].t;
		enum at_dtype dt = at_dtype_of(t);
		item[i] = p->result.item[i];
		if (dt == AT_F16 || dt == AT_BF16 || dt == AT_F64)
			item[i].t = at_cast(t, AT_F32);
	}
	ret = st_write(p->out, item, p->result.n, NULL, 0, e);
	free(item);
	return ret;
}

static int probe(struct probe *p, struct dist *d, struct err *e)
{
	bool needs_input = strcmp(p->component, "schedule") != 0;
	struct at_scope *s;
	int ret;

	if (!p->dir || !p->out || (needs_input && !p->in))
		return err_set(e, "probe: usage: contraflow probe %s", cmd_probe.usage);
	if (p->batch < 1 || p->steps < 1 || p->steps > 100000 || p->t5_length < 1 || p->t5_length > 1 << 16)
		return err_set(
		    e,
		    "probe: --steps must be in [1, 100000], --t5-length in [1, 65536], --batch at least 1");
	if (at_dtype_parse(&p->dtype, p->dtype_name, e) || startup_device(&p->device, p->device_name, d, e) ||
	    (needs_input && st_open(&p->file, p->in, e)))
		return -1;
	s = at_begin(AT_NO_GRAD);
	ret = run_component(p, e) || write_result(p, e) ? -1 : 0;
	at_end(s);
	taps_release(&p->result);
	if (needs_input)
		st_close(&p->file);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct probe p = { .dtype_name = "float32",
			   .device_name = "cpu",
			   .t5_length = PIPELINE_T5_LENGTH,
			   .steps = 40,
			   .batch = 1 };
	const struct option_spec spec[] = {
		{ "model", 's', &p.dir, "DIR", "a model directory, or a folder with only the component" },
		{ "in", 's', &p.in, "FILE", "safetensors file with the inputs" },
		{ "out", 's', &p.out, "FILE", "safetensors file for the outputs" },
		{ "taps", 'f', &p.taps, NULL, "also write intermediate tensors, as tap.NUMBER.MODULE" },
		{ "dtype", 's', &p.dtype_name, "TYPE", "type of the weights (default float32)" },
		{ "device", 's', &p.device_name, "NAME", "auto, cpu or cuda (default cpu)" },
		{ "t5-length", 'i', &p.t5_length, "N", "prompt length for T5, in tokens (default 256)" },
		{ "batch", 'i', &p.batch, "N", "for vae-decode: images at a time (default 1)" },
		{ "steps", 'i', &p.steps, "N", "for schedule: sampling steps (default 40)" },
		{ "shift", 'r', &p.shift, "X", "for schedule: timestep shift (default: the model's)" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_probe, spec, argc, argv, &p.component, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "probe: usage: contraflow probe %s", cmd_probe.usage);
	return startup_open(&d, STARTUP_ALONE, e) || probe(&p, &d, e) ? -1 : 0;
}

const struct command cmd_probe = {
	"probe", "COMPONENT --model DIR --in X.safetensors --out Y.safetensors [--taps]",
	"run one component of a model on given tensors, to compare it with another program", run
};
