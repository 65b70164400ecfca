/* cmd_shapes.c -- contraflow shapes: the world's prompt files, and images of its scenes. */
#include "base/file.h"
#include "base/image.h"
#include "base/mem.h"
#include "data/prompts.h"
#include "data/shapes/shapes.h"
#include "commands/options.h"
#include <stdlib.h>

/* The true image of every line of a prompt file: DIR/00000.png and so on. */
static int render_all(const struct shapes_conf *c, const char *file, const char *dir, int64_t seed,
		      struct err *e)
{
	int side = (int)(c->grid * c->cell), ret = 0;
	uint8_t *rgb = mem_alloc((size_t)(side * side * 3));
	struct prompts p;

	if (prompts_read(&p, file, e) || file_mkdirs(dir, e)) {
		free(rgb);
		return -1;
	}
	for (int64_t i = 0; i < p.n && !ret; i++) {
		struct rng r = rng_make((uint64_t)seed, RNG_USER, 0, (uint64_t)i);
		char *path = mem_printf("%s/%05lld.png", dir, (long long)i);
		struct shapes_scene s;
		ret = shapes_scene(&s, c, p.v[i].meta, &r, e);
		if (!ret) {
			shapes_render(&s, c, rgb);
			ret = image_write_png(path, side, side, rgb, e);
		}
		free(path);
	}
	prompts_free(&p);
	free(rgb);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *prompts = NULL, *render = NULL, *out = NULL, *args[1];
	int64_t seed = 0;
	struct option_list set = { .n = 0 };
	const struct option_spec spec[] = {
		{ "prompts", 's', &prompts, "DIR",
		  "write DIR/train.jsonl, DIR/validation.jsonl and DIR/test.jsonl" },
		{ "render", 's', &render, "FILE", "draw a scene that fits each prompt of a .jsonl file" },
		{ "o", 's', &out, "DIR", "folder for the images of --render" },
		{ "seed", 'i', &seed, "N", "seed of the scenes (default 0)" },
		{ "set", 'm', &set, "KEY=VALUE",
		  "set a parameter of the world (`world.*` of pretrain, without `world.`); may be repeated" },
		{ NULL, 0, NULL, NULL, NULL }
	};
	struct shapes_conf c = { 0 };
	struct conf_node *tree;
	int n, ret = options_parse(&cmd_shapes, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (!prompts && !render)
		return err_set(e, "shapes: nothing to do; usage: contraflow shapes %s", cmd_shapes.usage);
	if (render && !out)
		return err_set(e, "shapes: --render needs -o DIR");
	if ((render && file_can_fill(out, e)) || (prompts && file_can_fill(prompts, e)))
		return err_in(e, "shapes");
	tree = conf_empty();
	for (int i = 0; i < set.n && !ret; i++)
		ret = conf_set(tree, set.v[i], e);
	if (!ret && !(ret = conf_fill(&c, shapes_fields, tree, "", NULL, e))) {
		ret = shapes_check(&c, e);
		if (!ret && prompts)
			ret = shapes_write_prompts(&c, prompts, e);
		if (!ret && render)
			ret = render_all(&c, render, out, seed, e);
		conf_release(&c, shapes_fields);
	}
	conf_node_free(tree);
	return ret;
}

const struct command cmd_shapes = { "shapes", "[--prompts DIR] [--render FILE -o DIR]",
				    "write the shapes world's prompts, or draw its scenes", run };
