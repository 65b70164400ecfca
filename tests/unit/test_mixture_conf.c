/* The section `rewards`: what it may say, entries with names, checks of prompts, and the real rewards through
 * it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/image.h"
#include "data/shapes/shapes.h"
#include "rewards/mixture/mixture.h"

static void finish(struct mixture *m, struct mixture_scores *s)
{
	assert_true(mixture_wait(m, s) >= 0);
	mixture_total(m, s, NULL, 0);
}

static struct conf_node *read_yaml(const char *yaml, struct err *e)
{
	char path[] = "/tmp/test_mixture_XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
	close(fd);
	struct conf_node *root = conf_read(path, e);
	unlink(path);
	return root;
}

static int open_yaml(struct mixture **m, const char *yaml, struct err *e)
{
	struct conf_node *root = read_yaml(yaml, e);
	int ret = root ? mixture_open(m, root, 2, e) : -1;

	conf_node_free(root);
	return ret;
}

static void refuse(const char *yaml, const char *said)
{
	struct mixture *m = NULL;
	struct err e = { "" };

	if (!open_yaml(&m, yaml, &e) || !strstr(e.msg, said))
		fail_msg("%s: '%s', wanted '%s'", yaml, e.msg, said);
	assert_null(m);
}

static void bad_configuration(void **state)
{
	(void)state;
	refuse("other: 1\n", "rewards: there is none");
	refuse("rewards: {}\n", ":1: rewards: there is none");
	refuse("rewards:\n  genevla: {weight: 1}\n",
	       ":2: rewards: no reward is called 'genevla'; did you mean 'geneval'?");
	refuse("rewards:\n  xyz: {weight: 1}\n", "geneval, ocr, clipscore");
	refuse("rewards:\n  geneval: {wieght: 1}\n", "did you mean 'rewards.geneval.weight'?");
	refuse("rewards:\n  http: {url: \"http://x\", sub_scores: [a, score]}\n",
	       "rewards.http.sub_scores: 'score'");
	refuse("rewards:\n  http: {url: \"http://x\", sub_scores: [a, a]}\n", "rewards.http.sub_scores: 'a'");
	refuse("rewards:\n  http: {url: \"http://x\", sub_scores: [a, b, c, d, e]}\n", "has 5 entries");
	refuse("rewards:\n  geneval: {weight: heavy}\n", "rewards.geneval.weight = 'heavy'");
	refuse("rewards:\n  geneval: {weight: .inf}\n", "rewards.geneval.weight");
	refuse("rewards:\n  geneval: {detector: blob}\n", "blobs");
	refuse("rewards:\n  geneval: {reference_scorin: true}\n", "reference_scoring");
	refuse("rewards:\n  jpeg_compressibility: {}\n  geneval: {detectr: blobs}\n", ":3: ");
	refuse("rewards:\n  jpeg_compressibility: {detector: blobs}\n", "detector");
	refuse("rewards:\n  a: {type: genevla}\n",
	       ":2: rewards.a.type: no reward is called 'genevla'; did you mean 'geneval'?");
	refuse("rewards:\n  a: {type: geneval, wieght: 1}\n", "did you mean 'rewards.a.weight'?");
	refuse("rewards:\n  a: {type: http}\n", ":2: 'rewards.a.url' is required");
	refuse("rewards:\n  a b: {type: geneval}\n", ":2: rewards: 'a b' is not a valid name");
	refuse("rewards:\n  \"\": {type: geneval}\n", "'' is not a valid name");
	refuse("rewards:\n  mean: {type: geneval}\n", ":2: rewards: an entry cannot be called 'mean'");
	refuse("rewards:\n  left_out: {type: geneval}\n",
	       ":2: rewards: an entry cannot be called 'left_out'");
	refuse("rewards:\n  geneval: {weight: 0}\n  jpeg_compressibility: {weight: 0}\n",
	       ":1: rewards: the weight of every entry is 0: at least one must count");
	refuse("rewards: {geneval: {}}\neval:\n  rewards: {geneval: {}}\n",
	       ":3: eval.rewards: 'geneval' is an entry of `rewards`, too");
	refuse("rewards: {geneval: {}}\neval:\n  rewards: {a: {type: geneval, weight: 2}}\n",
	       ":3: eval.rewards.a.weight: rewards of eval.rewards are never trained on");
	refuse("eval: {rewards: {geneval: {}}}\n", "rewards: there is none");
#define TWO                                                                                                  \
	"rewards: {geneval: {}, jpeg_compressibility: {}}\nprompts:\n  sets:\n    a: {rewards: {geneval: "   \
	"1}}\n"
	refuse(TWO, ":1: rewards.jpeg_compressibility: no set of `prompts.sets` names this reward");
	refuse(TWO "    b: {}\n", ":5: prompts.sets.b.rewards: no reward scores these prompts");
	refuse(TWO "    b: {rewards: {}}\n", ":5: prompts.sets.b.rewards: no reward scores these prompts");
	refuse(TWO "    b: {rewards: {jpeg_compressibility: 0}}\n",
	       ":5: prompts.sets.b.rewards: the weight of every reward is 0");
	refuse(TWO "    b: {rewards: {jpeg_compresibility: 1}}\n",
	       ":5: prompts.sets.b.rewards: `rewards` has no entry 'jpeg_compresibility'; did you mean "
	       "'jpeg_compressibility'?");
	refuse(TWO "    b: {rewards: {jpeg_compressibility: much}}\n",
	       ":5: prompts.sets.b.rewards.jpeg_compressibility = 'much': not a number");
	refuse("rewards:\n  a: geneval\n", "'rewards.a' is a section of keys");
	refuse("rewards: {judge: {type: plugin, path: ./no.so}}\n", "reward judge: cannot load ./no.so");
}

/* One reward twice, and under the name of another: each has its own keys and its name in what is said. */
static void entries_with_names(void **state)
{
	static const char yaml[] =
	    "rewards:\n  plain: {type: geneval, weight: 2}\n"
	    "  ocr: {type: geneval, reference_scoring: true}\n  jpeg_compressibility: {}\n";
	struct mixture *m;
	struct err e = { "" };
	struct text out = { 0 };
	struct mixture_scores s;
	uint8_t rgb[3] = { 0 };
	const struct reward_item item = { rgb, 1, 1, "p", "{}", 0 };

	(void)state;
	assert_int_equal(open_yaml(&m, yaml, &e), 0);
	assert_int_equal(mixture_count(m), 3);
	assert_string_equal(mixture_at(m, 0)->name, "plain");
	assert_string_equal(mixture_at(m, 1)->name, "ocr");
	assert_string_equal(mixture_at(m, 1)->type->name, "geneval");
	assert_true(mixture_at(m, 0)->weight == 2 && mixture_at(m, 1)->weight == 1);
	mixture_scores_init(&s, 1, 3);
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, &item, 1);
	finish(m, &s);
	assert_non_null(strstr(s.why, "plain: GenEval metadata"));
	assert_true(!isnan(s.value[2]));
	mixture_scores_free(&s);
	assert_int_equal(mixture_check(m, "a cat", "{}", &e), -1);
	assert_non_null(strstr(e.msg, "reward plain cannot score 'a cat'"));
	mixture_close(m);

	struct conf_node *root = conf_empty(), *file = read_yaml(yaml, &e);
	assert_int_equal(mixture_resolve(file, root, &e), 0);
	conf_emit(&out, root);
	conf_node_free(root);
	conf_node_free(file);
	assert_int_equal(open_yaml(&m, out.s, &e), 0);
	assert_string_equal(mixture_at(m, 1)->name, "ocr");
	assert_string_equal(mixture_at(m, 1)->type->name, "geneval");
	mixture_close(m);
	text_free(&out);
}

static void resolved_configuration(void **state)
{
	static const char yaml[] =
	    "rewards:\n  jpeg_compressibility: {weight: -0.25}\n  geneval: {reference_scoring: true}\n";
	struct mixture *m;
	struct err e = { "" };
	struct text out = { 0 };

	(void)state;
	if (open_yaml(&m, yaml, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(mixture_count(m), 2);
	assert_string_equal(mixture_at(m, 0)->type->name, "jpeg_compressibility");
	assert_true(mixture_at(m, 0)->weight == -0.25);
	assert_true(mixture_at(m, 1)->weight == 1);
	mixture_close(m);
	struct conf_node *root = conf_empty(), *file = read_yaml(yaml, &e);
	assert_int_equal(mixture_resolve(file, root, &e), 0);
	conf_emit(&out, root);
	conf_node_free(root);
	conf_node_free(file);

	/* What was written reads back as the same mixture. */
	if (open_yaml(&m, out.s, &e))
		fail_msg("%s\n%s", e.msg, out.s);
	assert_true(mixture_at(m, 0)->weight == -0.25);
	assert_non_null(strstr(out.s, "reference_scoring: true"));
	assert_non_null(strstr(out.s, "detector: blobs"));
	mixture_close(m);
	text_free(&out);
}

static void prompts_are_checked(void **state)
{
	static const char circle[] = "{\"include\": [{\"class\": \"circle\", \"count\": 1}]}";
	struct mixture *m;
	struct err e = { "" };

	(void)state;
	assert_int_equal(open_yaml(&m, "rewards: {geneval: {}, jpeg_incompressibility: {}}\n", &e), 0);
	assert_int_equal(mixture_check(m, "a photo of a circle", circle, &e), 0);
	assert_int_equal(mixture_check(m, "a photo of a bench",
				       "{\"include\": [{\"class\": \"bench\", \"count\": 1}]}", &e),
			 -1);
	assert_string_equal(
	    e.msg, "reward geneval cannot score 'a photo of a bench': detector blobs: include[0]: unknown "
		   "class 'bench' (known: circle, square, triangle, cross, wedge, ring, bar, pillar)");
	assert_int_equal(mixture_check(m, "a cat", "{}", &e), -1); /* a .txt prompt */
	mixture_close(m);
}

/* The real rewards on a real scene, and on metadata that geneval cannot use. */
static void real_rewards(void **state)
{
	enum { N = 3 };
	static const struct shapes_conf world = { 3, 8, 2.7, 3.15, 0.6, 0.02, 0.10, 3 };
	static const char meta[] = "{\"include\": [{\"class\": \"cross\", \"count\": 2}]}";
	static const char *const asked[N] = { meta, "{\"include\": [{\"class\": \"cross\", \"count\": 1}]}",
					      "{}" };
	struct rng r = rng_make(1, RNG_SCENE, 0, 0);
	uint8_t rgb[24 * 24 * 3];
	struct reward_item item[N];
	struct shapes_scene scene;
	struct mixture_scores s;
	struct mixture *m;
	struct err e = { "" };
	uint8_t *jpeg;
	size_t bytes;

	(void)state;
	assert_int_equal(shapes_scene(&scene, &world, meta, &r, &e), 0);
	shapes_render(&scene, &world, rgb);
	assert_int_equal(image_jpeg(&jpeg, &bytes, 24, 24, rgb, 95, &e), 0);
	free(jpeg);
	for (int i = 0; i < N; i++)
		item[i] = (struct reward_item) { rgb, 24, 24, "p", asked[i], 0 };
	assert_int_equal(
	    open_yaml(&m, "rewards: {geneval: {}, jpeg_compressibility: {}, jpeg_incompressibility: {}}\n",
		      &e),
	    0);
	mixture_scores_init(&s, N, 3);
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, item, N);
	finish(m, &s);
	assert_true(s.value[0] == 1 && s.value[1] == 0 && isnan(s.value[2]));
	assert_true(s.sub[0] == 1 && s.sub[REWARD_SUBS] == 0);     /* strict */
	assert_true(s.sub[1] == 1 && s.sub[REWARD_SUBS + 1] == 1); /* correct: at least one */
	assert_true(isnan(s.sub[2]) && isnan(s.sub[2 * REWARD_SUBS]));
	for (int i = 0; i < N; i++) {
		assert_true(fabs(s.value[N + i] + (double)bytes / 500000) < 1e-12);
		assert_true(fabs(s.value[2 * N + i] - (double)bytes / 1000) < 1e-12);
	}
	assert_int_equal(s.unavailable, 1);
	assert_non_null(strstr(s.why, "geneval: GenEval metadata: no \"include\""));
	mixture_scores_free(&s);
	mixture_close(m);
}

/* A set's numbers are factors of the entries' weights; what it does not name does not score it, and what is
 * held out scores all. */
static void weights_of_sets(void **state)
{
	static const char yaml[] =
	    "rewards: {geneval: {weight: 2}, jpeg_compressibility: {weight: -0.5}}\n"
	    "eval: {rewards: {watch: {type: geneval}}}\n"
	    "prompts:\n  sets:\n    b: {rewards: {geneval: 1, jpeg_compressibility: 3}}\n"
	    "    a: {rewards: {jpeg_compressibility: 1, geneval: 0}}\n"
	    "    c: {rewards: {geneval: 0.5}}\n";
	struct mixture *m;
	struct err e;

	(void)state;
	assert_int_equal(open_yaml(&m, yaml, &e), 0);
	assert_int_equal(mixture_sets(m), 3);
	assert_true(mixture_weight(m, 0, 0) == 2 &&
		    mixture_weight(m, 1, 0) == -1.5); /* b: first in the file */
	assert_true(mixture_weight(m, 0, 1) == 0 && mixture_weight(m, 1, 1) == -0.5);
	assert_true(mixture_weight(m, 0, 2) == 1 && isnan(mixture_weight(m, 1, 2)));
	for (int set = 0; set < 3; set++)
		assert_true(mixture_weight(m, 2, set) == 0);
	mixture_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_configuration),      cmocka_unit_test(entries_with_names),
		cmocka_unit_test(resolved_configuration), cmocka_unit_test(prompts_are_checked),
		cmocka_unit_test(real_rewards),           cmocka_unit_test(weights_of_sets),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
