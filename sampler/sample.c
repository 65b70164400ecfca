#include "sampler/replay.h"
#include "aten/normals.h"
#include "aten/transfer.h"
#include <string.h>

static const char *const timestep_names[] = { "float", "integer", NULL };
static const char *const grid_names[] = { "diffusers", "even", NULL };

const struct field_word batch_words[] = { { "auto", 0 }, { NULL, 0 } };
static const struct field_word eta_words[] = { { "auto", -1 }, { NULL, 0 } };

#define SAMPLER_FIELDS(SOLVER, STEPS)                                                                        \
	FIELD(struct sampler_conf, solver, .init = SOLVER, .choices = solver_names, .or_path = true,         \
	      .doc = "solver that integrates the flow: one of these (docs/solvers.md), or the path of a "    \
		     "plug-in, with a slash in it (docs/extending.md)"),                                     \
	    FIELD(struct sampler_conf, eta, .init = "auto", .min = 0, .max = 100, .words = eta_words,        \
		  .doc = "how much noise a stochastic solver adds; 0: none; auto: the solver's own amount"), \
	    FIELD(struct sampler_conf, steps, .init = STEPS, .min = 1, .max = 1000, .unit = "steps",         \
		  .doc = "noise levels of the sampling schedule"),                                           \
	    FIELD(struct sampler_conf, guidance, .init = "1", .min = 0, .max = 100,                          \
		  .doc = "guidance scale. Of a model whose input it is (FLUX.1-dev) that input; else "       \
			 "classifier-free, with a second forward; 1: none, at no cost"),                     \
	    FIELD(struct sampler_conf, negative, .init = "",                                                 \
		  .doc = "negative prompt, which guidance leads away from"),                                 \
	    FIELD(struct sampler_conf, shift, .init = "0", .min = 0, .max = 100,                             \
		  .doc = "timestep shift of the schedule; 0: the model's"),                                  \
	    FIELD(struct sampler_conf, grid, .init = "diffusers", .choices = grid_names,                     \
		  .doc = "noise levels before the shift: as the model's pipeline in diffusers has them, or " \
			 "1 - i / steps"),                                                                   \
	    FIELD(struct sampler_conf, timesteps, .init = "float", .choices = timestep_names,                \
		  .doc = "timestep given to the transformer: 1000 sigma, or its integer part"),              \
	    FIELD(struct sampler_conf, batch, .init = "32", .min = 1, .max = 65536, .unit = "images",        \
		  .words = batch_words,                                                                      \
		  .doc = "images sampled at a time on each rank; auto: as many as fit into `run.memory`"),   \
	    FIELD(struct sampler_conf, cuda_graphs, .was = "graphs", .init = "true",                         \
		  .doc = "on a GPU, replay forwards from CUDA graphs")

const struct field rollout_fields[] = {
	SAMPLER_FIELDS("dpm2", "10"),
	FIELD(struct sampler_conf, fp8, .init = "false",
	      .doc = "sample with 8-bit (E4M3) weights and activations in the blocks; "
		     "the update keeps run.dtype"),
	FIELD_END
};
const struct field eval_sampler_fields[] = { SAMPLER_FIELDS("euler", "40"), FIELD_END };

static const struct solver_type *open_solver(const struct sampler_conf *c, struct err *e)
{
	const struct solver_type *type = solver_open(c->solver, e);

	if (!type) {
		err_in(e, "solver");
	} else if (c->eta > 0 && type->strength == 0) {
		err_set(e, "eta: solver %s adds no noise, so it cannot be %g", c->solver, c->eta);
		solver_close(type);
		type = NULL;
	}
	return type;
}

static int check_word(const char *key, const char *word, const char *const *words, struct err *e)
{
	for (int i = 0; words[i]; i++)
		if (!strcmp(word, words[i]))
			return 0;
	return err_set(e, "%s: '%s' is neither %s nor %s", key, word, words[0], words[1]);
}

int sampler_check(const struct sampler_conf *c, struct err *e)
{
	if (check_word("timesteps", c->timesteps, timestep_names, e) ||
	    check_word("grid", c->grid, grid_names, e))
		return -1;
	const struct solver_type *type = open_solver(c, e);

	solver_close(type);
	return type ? 0 : -1;
}

static struct solver solver_of(const struct sampler *s)
{
	return (struct solver) { .type = s->solver,
				 .steps = s->schedule.steps,
				 .sigma = s->schedule.sigma,
				 .eta = s->eta,
				 .noisy_from = s->noisy_from,
				 .noisy_to = s->noisy_to };
}

struct transition sampler_law(const struct sampler *s, int i)
{
	struct solver solver = solver_of(s);

	return s->solver->law(&solver, i);
}

int sampler_init(struct sampler *s, const struct pipeline *p, const struct sampler_conf *c,
		 struct at_dims latent_CHW, struct err *e)
{
	*s = (struct sampler) { .pipeline = p, .guidance = c->guidance, .noisy_to = (int)c->steps };
	if (!(s->solver = open_solver(c, e)))
		return -1;
	s->eta = c->eta < 0 ? s->solver->strength : c->eta;
	schedule_init(&s->schedule, &p->schedule, strcmp(c->grid, "even") ? p->family->grid : GRID_STEPS,
		      p->family->mu, c->shift, (int)c->steps, pipeline_tokens(p, latent_CHW),
		      !strcmp(c->timesteps, "integer"));
	struct solver solver = solver_of(s);
	if (solver_check(&solver, e)) {
		sampler_release(s);
		return -1;
	}
	if (c->cuda_graphs)
		s->replays = replays_new();
	if (c->guidance != 1 && !p->transformer.facts.guided) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		struct cond none = { 0 };
		const char *prompt = c->negative && *c->negative ? c->negative : p->family->negative;
		int ret = pipeline_encode_negative(p, prompt, &none, e);
		if (!ret) {
			s->negative = cond_keep(&none);
		}
		at_end(sc);
		if (ret) {
			sampler_release(s);
			return err_in(e, "guidance %g needs the negative prompt '%.60s'", c->guidance,
				      prompt);
		}
	}
	return 0;
}

void sampler_release(struct sampler *s)
{
	replays_free(s->replays);
	solver_close(s->solver);
	schedule_free(&s->schedule);
	cond_free(&s->negative);
	*s = (struct sampler) { 0 };
}

int sampler_passes(const struct sampler *s)
{
	return s->guidance == 1 || s->pipeline->transformer.facts.guided ? 1 : 2;
}

at_t sampler_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
		      const struct cond *c)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	at_t v[2];

	if (s->pipeline->transformer.facts.guided) {
		at_t guidance_B = at_full(DIMS(at_size(x_BCHW, 0)), s->guidance, AT_F32, s->pipeline->device);

		return at_return(sc, pipeline_velocity(s->pipeline, pass, x_BCHW, t_B, c, guidance_B));
	}
	if (s->guidance == 1)
		return at_return(sc, pipeline_velocity(s->pipeline, pass, x_BCHW, t_B, c, NULL));
	struct cond both = cond_before(&s->negative, c);
	at_t both_v = pipeline_velocity(s->pipeline, pass, at_cat2(x_BCHW, x_BCHW, 0), at_cat2(t_B, t_B, 0),
					&both, NULL);

	at_chunk(2, v, both_v, 0);
	return at_return(sc, s->pipeline->family->guide
				 ? s->pipeline->family->guide(v[1], v[0], s->guidance)
				 : at_add_scaled(v[0], at_sub(v[1], v[0]), s->guidance));
}

at_t sampler_still_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
			    const struct cond *c)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);

	return at_return(sc, s->replays ? replays_velocity(s->replays, s, pass, x_BCHW, t_B, c)
					: sampler_velocity(s, pass, x_BCHW, t_B, c));
}

/* What the solver's callbacks need of one batch. */
struct run {
	const struct sampler *sampler;
	const struct pass *pass;
	const struct cond *cond;
	const struct sampler_steps *steps;
};

static at_t velocity_at_level(void *ctx, double sigma, at_t x_BCHW)
{
	struct run *r = ctx;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t n = at_size(x_BCHW, 0);

	if (r->steps && r->steps->forwards)
		*r->steps->forwards += n * sampler_passes(r->sampler);
	at_t t_B =
	    at_full(DIMS(n), schedule_t(&r->sampler->schedule, sigma), AT_F32, r->sampler->pipeline->device);
	return at_return(sc, sampler_still_velocity(r->sampler, r->pass, x_BCHW, t_B, r->cond));
}

static at_t noise_of_step(void *ctx, int i, at_t x_BCHW)
{
	struct run *r = ctx;
	struct at_dims d = at_shape(x_BCHW);

	return sampler_step_noise(r->sampler->pipeline, r->steps, i, (int)d.d[0],
				  DIMS(d.d[1], d.d[2], d.d[3]));
}

static void record_step(void *ctx, int i, at_t x_BCHW, at_t next_BCHW)
{
	struct run *r = ctx;

	r->steps->record(r->steps->ctx, i, x_BCHW, next_BCHW);
}

at_t sampler_run(const struct sampler *s, const struct pass *pass, at_t noise_BCHW, const struct cond *c,
		 const struct sampler_steps *steps)
{
	struct run r = { .sampler = s, .pass = pass, .cond = c, .steps = steps };
	struct solver solver = solver_of(s);

	solver.velocity = velocity_at_level;
	solver.ctx = &r;
	if (steps) {
		solver.stop = steps->stop;
		solver.noise = noise_of_step;
		solver.record = steps->record ? record_step : NULL;
	}
	return solver_run(&solver, noise_BCHW);
}

/* One stream a sample: a step's, or where step is below 0 the sample's own. */
static at_t draw(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch, int step,
		 const int64_t *id, int n, struct at_dims shape_CHW)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct at_dims shape = { .n = shape_CHW.n + 1, .d = { n } };
	at_t name_B2 = at_empty(DIMS(n, 2), AT_I64, AT_CPU);
	int64_t *name = at_data(name_B2);

	for (int i = 0; i < shape_CHW.n; i++)
		shape.d[i + 1] = shape_CHW.d[i];
	for (int i = 0; i < n; i++) {
		uint64_t sample = (uint64_t)id[i];
		struct rng r = step < 0 ? rng_make(seed, purpose, epoch, sample)
					: rng_make_step(seed, purpose, epoch, sample, (uint64_t)step);
		rng_name(&r, name + 2 * i);
	}
	at_send_all(1, &name_B2, &name_B2, p->device);
	return at_return(sc, at_normals(seed, name_B2, shape));
}

at_t sampler_noise(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch,
		   const int64_t *id, int n, struct at_dims shape_CHW)
{
	return draw(p, seed, purpose, epoch, -1, id, n, shape_CHW);
}

at_t sampler_step_noise(const struct pipeline *p, const struct sampler_steps *k, int i, int n,
			struct at_dims shape_CHW)
{
	return draw(p, k->seed, k->purpose, k->epoch, i, k->id, n, shape_CHW);
}
