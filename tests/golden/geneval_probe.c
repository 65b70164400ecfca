/*
 * geneval_probe.c -- what tests/golden/test_geneval.py runs.
 *
 *   golden_geneval IN
 *       each line {"meta", "limits": [threshold, counting_threshold, max_overlap], "objects": [[class, colour
 * or null, x0, y0, x1, y1, score], ...]} -> a line with the objects that stay, as indices, and twice (with
 *       our scores, with the reference's) the reward, strict, correct and which clauses are right
 */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "rewards/geneval/geneval.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double number(const json_t *list, size_t i)
{
	return json_number_value(json_array_get(list, i));
}

static int read_objects(struct geneval_object *out, const json_t *list)
{
	size_t i;
	const json_t *o;

	json_array_foreach(list, i, o)
	{
		out[i] = (struct geneval_object) { json_string_value(json_array_get(o, 0)),
						   json_string_value(json_array_get(o, 1)),
						   { number(o, 2), number(o, 3), number(o, 4), number(o, 5) },
						   number(o, 6),
						   (int)i };
	}
	return (int)json_array_size(list);
}

static void answer(const json_t *c)
{
	const json_t *meta = json_object_get(c, "meta"), *limits = json_object_get(c, "limits"),
		     *objects = json_object_get(c, "objects");
	struct geneval_object *obj = mem_alloc((json_array_size(objects) + 1) * sizeof *obj);
	struct geneval_limits l = { number(limits, 0), number(limits, 1), number(limits, 2) };
	int n = geneval_select(obj, read_objects(obj, objects), meta, &l);

	printf("[[");
	for (int i = 0; i < n; i++)
		printf("%s%d", i ? ", " : "", obj[i].candidate);
	printf("]");
	for (int reference = 0; reference < 2; reference++) {
		struct geneval_result r;
		struct err e;
		if (geneval_judge(&r, meta, obj, n, reference, &e))
			die("%s", e.msg);
		printf(", [%.17g, %d, %d, %u]", r.reward, r.strict, r.correct, r.right);
	}
	printf("]\n");
	free(obj);
}

int main(int argc, char **argv)
{
	struct err e;
	char *data = NULL;
	size_t size;

	if (argc != 2)
		die("golden_geneval: see the top of tests/golden/geneval_probe.c");
	if (file_read(&data, &size, argv[1], &e))
		die("%s", e.msg);
	for (char *line = strtok(data, "\n"); line; line = strtok(NULL, "\n")) {
		json_t *c = json_parse(line, strlen(line), "case", &e);
		if (!c)
			die("%s", e.msg);
		answer(c);
		json_decref(c);
	}
	free(data);
	return 0;
}
