#include "models/schedule_conf.h"
#include "models/known_keys.h"
#include <string.h>

#define EULER "FlowMatchEulerDiscreteScheduler"
#define DPM   "DPMSolverMultistepScheduler"

/* An optional number of diffusers may be null. */
static int real(double *out, const json_t *o, const char *key, double absent, const char *path, struct err *e)
{
	*out = absent;
	return json_is_null(json_object_get(o, key)) ? 0 : json_get_real(out, o, key, absent, path, e);
}

/* Of a multistep scheduler, which may be another model's than a flow's. */
static int check_flow(const json_t *o, const char *path, struct err *e)
{
	const char *kind;
	bool flow;

	if (json_get_str(&kind, o, "prediction_type", "epsilon", path, e) ||
	    json_get_bool(&flow, o, "use_flow_sigmas", false, path, e))
		return -1;
	if (strcmp(kind, "flow_prediction") != 0 || !flow)
		return err_set(
		    e, "%s: " DPM ": prediction_type must be flow_prediction, and use_flow_sigmas true",
		    path);
	return 0;
}

int schedule_conf_class(const char *name, const char *where, struct err *e)
{
	if (!strcmp(name, EULER) || !strcmp(name, DPM))
		return 0;
	return err_set(e, "%s: scheduler is of class '%s', which is unknown: there are " EULER " and " DPM,
		       where, name);
}

static int read_shifts(struct schedule_conf *c, const json_t *o, const char *path, struct err *e)
{
	const char *kind, *class_name;

	if (json_get_str(&class_name, o, "_class_name", EULER, path, e) ||
	    schedule_conf_class(class_name, path, e))
		return -1;
	bool dpm = !strcmp(class_name, DPM);
	if ((dpm && check_flow(o, path, e)) ||
	    json_check_keys(o, dpm ? known_dpm : known_euler, known_anywhere, path, e) ||
	    real(&c->shift, o, dpm ? "flow_shift" : "shift", 1, path, e) ||
	    json_get_int(&c->num_train_timesteps, o, "num_train_timesteps", 1000, path, e) ||
	    json_get_bool(&c->dynamic, o, "use_dynamic_shifting", false, path, e) ||
	    real(&c->base_shift, o, "base_shift", 0.5, path, e) ||
	    real(&c->max_shift, o, "max_shift", 1.15, path, e) ||
	    json_get_int(&c->base_image_seq_len, o, "base_image_seq_len", 256, path, e) ||
	    json_get_int(&c->max_image_seq_len, o, "max_image_seq_len", 4096, path, e) ||
	    real(&c->shift_terminal, o, "shift_terminal", 0, path, e) ||
	    json_get_str(&kind, o, "time_shift_type", "exponential", path, e))
		return -1;
	c->linear = !strcmp(kind, "linear");
	if (!c->linear && strcmp(kind, "exponential") != 0)
		return err_set(e, "%s: time_shift_type '%.40s': there are exponential and linear", path,
			       kind);
	return 0;
}

static int check(const struct schedule_conf *c, const char *path, struct err *e)
{
	if (!(c->shift > 0) || c->num_train_timesteps < 1)
		return err_set(e, "%s: shift and num_train_timesteps must be above 0", path);
	if (c->dynamic && c->base_image_seq_len == c->max_image_seq_len)
		return err_set(
		    e, "%s: base_image_seq_len and max_image_seq_len are equal: no line goes through them",
		    path);
	if (!(c->shift_terminal >= 0 && c->shift_terminal < 1))
		return err_set(e, "%s: shift_terminal must be in [0, 1)", path);
	return 0;
}

int schedule_conf_read(struct schedule_conf *c, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = !o || read_shifts(c, o, path, e) || check(c, path, e) ? -1 : 0;

	json_decref(o);
	return ret;
}
