/*
 * cmd_probe.c -- contraflow probe: one component of a model on given tensors, for parity work.
 *
 * DIR needs only the folders of the component.  Outputs and taps are float32; taps are named "tap.NAME",
 * after diffusers' and transformers' modules (models/taps.h).
 */
#include "base/json.h"
#include "base/file.h"
#include "base/mem.h"
#include "models/pipeline.h"
#include "models/taps.h"
#include "sampler/schedule.h"
#include "commands/options.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

struct probe {
	const char *component, *dir, *in, *out, *dtype_name, *device_name;
	int64_t text_length, steps, batch, tokens;
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

static int check_batch(const struct probe *p, at_t x, const char *name, int64_t B, int dim, int64_t width,
		       struct err *e)
{
	if (at_size(x, 0) != B)
		return err_set(e, "%s: %s is of another batch size than hidden_states", p->in, name);
	if (width && at_size(x, dim) != width)
		return err_set(e, "%s: %s must have %lld channels", p->in, name, (long long)width);
	return 0;
}

/* An input of the batch's size that the transformer reads: `dims` dimensions, `width` in the last but for
 * latents; NULL where it reads none. */
static int batch_input(at_t *x, const struct probe *p, const char *name, int dims, int64_t B, int64_t width,
		       struct err *e)
{
	return input(x, p, name, dims, e) || check_batch(p, *x, name, B, dims - 1, width, e) ? -1 : 0;
}

struct forward {
	at_t x_BChw, t_B, guidance_B;
	struct cond cond;
};

static int read_forward(struct forward *f, const struct probe *p, const struct transformer *m, struct err *e)
{
	const struct transformer_facts *facts = &m->facts;
	at_t text, pooled, length = NULL;
	int64_t B;

	*f = (struct forward) { 0 };
	if (input(&f->x_BChw, p, "hidden_states", 4, e))
		return -1;
	B = at_size(f->x_BChw, 0);
	if (at_size(f->x_BChw, 1) != facts->channels)
		return err_set(e, "%s: hidden_states must have %lld channels", p->in,
			       (long long)facts->channels);
	if (transformer_check_side(m, at_size(f->x_BChw, 2), "hidden_states: height", e) ||
	    transformer_check_side(m, at_size(f->x_BChw, 3), "hidden_states: width", e))
		return err_in(e, "%s", p->in);
	if (batch_input(&f->t_B, p, "timestep", 1, B, 0, e))
		return -1;
	f->t_B = at_cast(f->t_B, AT_F32);
	if (facts->text_width) {
		if (batch_input(&text, p, "encoder_hidden_states", 3, B, facts->text_width, e) ||
		    (st_find(&p->file, "lengths") && batch_input(&length, p, "lengths", 1, B, 0, e)))
			return -1;
		cond_add(&f->cond, COND_TEXT, at_cast(text, p->dtype), length);
	}
	if (facts->pooled_width) {
		if (batch_input(&pooled, p, "pooled_projections", 2, B, facts->pooled_width, e))
			return -1;
		cond_add(&f->cond, COND_POOLED, at_cast(pooled, p->dtype), NULL);
	}
	return facts->guided ? batch_input(&f->guidance_B, p, "guidance", 1, B, 0, e) : 0;
}

static int transformer(struct probe *p, struct err *e)
{
	char *folder = file_join(p->dir, "transformer");
	const struct transformer_type *type = transformer_of(folder, e);
	struct transformer m = { 0 };
	struct forward f;
	struct taps taps;
	int ret =
	    !type || transformer_open(&m, type, folder, p->dtype, p->device, e) || read_forward(&f, p, &m, e)
		? -1
		: 0;

	if (!ret) {
		start_taps(p, &taps);
		at_t v = type->velocity(m.m, &(struct pass) { 0 }, at_cast(f.x_BChw, p->dtype), f.t_B,
					&f.cond, f.guidance_B);
		stop_taps(p, &taps);
		output(p, "sample", v);
	}
	transformer_close(&m);
	free(folder);
	return ret;
}

static int check_image(const struct probe *p, at_t x, bool encode, int64_t channels, int64_t scale,
		       struct err *e)
{
	if (at_size(x, 1) != channels || (encode && (at_size(x, 2) % scale || at_size(x, 3) % scale)))
		return err_set(e, "%s: wanted %lld channels%s", p->in, (long long)channels,
			       encode ? " and sides that are multiples of the latents' scale" : "");
	return 0;
}

static int vae(struct probe *p, bool encode, struct err *e)
{
	char *folder = file_join(p->dir, "vae");
	const struct autoencoder_type *type = pipeline_vae_type(folder, e);
	struct taps taps;
	void *m = NULL;
	at_t x;
	int ret = !type || type->open(&m, folder, p->dtype, p->device, e) ||
			  input(&x, p, encode ? "image" : "latents", 4, e) ||
			  check_image(p, x, encode, encode ? 3 : type->channels(m), type->scale(m), e)
		      ? -1
		      : 0;

	if (!ret) {
		x = at_cast(x, p->dtype);
		start_taps(p, &taps);
		x = encode ? type->encode(m, x) : type->decode(m, x, p->batch);
		stop_taps(p, &taps);
		output(p, encode ? "latents" : "sample", x);
	}
	if (m)
		type->close(m);
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
static int text_width(int64_t *width, const struct probe *p, struct err *e)
{
	char *folder = file_join(p->dir, "transformer");
	const struct transformer_type *type = NULL;
	struct transformer m = { 0 };
	int ret = 0;

	if (file_is_dir(folder))
		ret =
		    !(type = transformer_of(folder, e)) || transformer_describe(&m, type, folder, e) ? -1 : 0;
	*width = m.facts.text_width;
	transformer_close(&m);
	free(folder);
	return ret;
}

static int write_ids(struct probe *p, const struct text_encoder_type *type, void *state,
		     const char *const *prompt, int n, struct err *e)
{
	static const char *const name[TEXT_TOKENIZERS] = { "input_ids", "input_ids_2", "input_ids_3" };
	at_t ids[TEXT_TOKENIZERS];

	if (type->tokenize(state, prompt, n, ids, e))
		return -1;
	for (int i = 0; i < TEXT_TOKENIZERS; i++)
		if (ids[i])
			output(p, name[i], ids[i]);
	return 0;
}

static int write_embeddings(struct probe *p, const struct text_encoder_type *type, void *state,
			    const char *const *prompt, int n, struct err *e)
{
	struct cond c = { 0 };
	struct taps taps;
	at_t length, rows;
	int ret;

	start_taps(p, &taps);
	ret = type->encode(state, prompt, n, &c, e);
	stop_taps(p, &taps);
	if (ret)
		return -1;
	rows = cond_get(&c, COND_TEXT, &length);
	output(p, "prompt_embeds", rows);
	output(p, "lengths", length ? length : at_full(DIMS(n), (double)cond_tokens(&c), AT_I64, AT_CPU));
	if (cond_get(&c, COND_POOLED, NULL))
		output(p, "pooled_prompt_embeds", cond_get(&c, COND_POOLED, NULL));
	return 0;
}

static int text(struct probe *p, bool ids_only, struct err *e)
{
	const struct text_encoder_type *type = pipeline_text_type(p->dir, e);
	struct text_options o = {
		.dir = p->dir, .text_length = p->text_length, .dtype = p->dtype, .device = p->device
	};
	json_t *list = type ? read_prompts(p, e) : NULL;
	int n = (int)json_array_size(list), ret = -1;
	const char **prompt = mem_zero((size_t)n + 1, sizeof *prompt);
	void *state = NULL;

	for (int i = 0; i < n; i++)
		prompt[i] = json_string_value(json_array_get(list, (size_t)i));
	if (list && !text_width(&o.width, p, e) && !type->open(&state, &o, e)) {
		ret = (ids_only ? write_ids : write_embeddings)(p, type, state, prompt, n, e);
		type->close(state);
	}
	free(prompt);
	json_decref(list);
	return ret;
}

static int schedule(struct probe *p, struct err *e)
{
	char *folder = file_join(p->dir, "scheduler"), *path = file_join(folder, "scheduler_config.json");
	const struct family *family = pipeline_family(p->dir, e);
	struct schedule_conf c;
	int ret = !family || schedule_conf_read(&c, path, e) ? -1 : 0;
	struct schedule s;

	if (!ret && c.dynamic && !(p->shift > 0) && p->tokens < 1)
		ret = err_set(e, "%s: the shift depends on the image's size: give --tokens or --shift", path);
	if (!ret) {
		schedule_init(&s, &c, family->grid, family->mu, p->shift, (int)p->steps, p->tokens, false);
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
	if (p->batch < 1 || p->steps < 1 || p->steps > 100000 || p->text_length < 0 ||
	    p->text_length > 1 << 16)
		return err_set(
		    e,
		    "probe: --steps must be in [1, 100000], --text-length in [1, 65536], --batch at least 1");
	if (file_can_write(p->out, e))
		return err_in(e, "probe");
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
	struct probe p = { .dtype_name = "float32", .device_name = "cpu", .steps = 40, .batch = 1 };
	const struct option_spec spec[] = {
		{ "model", 's', &p.dir, "DIR", "a model directory, or a folder with only the component" },
		{ "in", 's', &p.in, "FILE", "safetensors file with the inputs" },
		{ "out", 's', &p.out, "FILE", "safetensors file for the outputs" },
		{ "taps", 'f', &p.taps, NULL, "also write intermediate tensors, as tap.NUMBER.MODULE" },
		{ "dtype", 's', &p.dtype_name, "TYPE", "type of the weights (default float32)" },
		{ "device", 's', &p.device_name, "NAME", "auto, cpu or cuda (default cpu)" },
		{ "text-length", 'i', &p.text_length, "N",
		  "tokens of a prompt that are read (default: the model family's; Stable Diffusion 3: 256 "
		  "for T5)" },
		{ "t5-length", 'i', &p.text_length, "N", "earlier name of --text-length" },
		{ "batch", 'i', &p.batch, "N", "for vae-decode: images at a time (default 1)" },
		{ "steps", 'i', &p.steps, "N", "for schedule: sampling steps (default 40)" },
		{ "shift", 'r', &p.shift, "X", "for schedule: timestep shift (default: the model's)" },
		{ "tokens", 'i', &p.tokens, "N",
		  "for schedule: image tokens, if the model's schedule depends on them" },
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
