/* The mixture with made-up rewards (threads, failures) and with the real ones (configuration, checks). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/file.h"
#include "base/image.h"
#include "base/mem.h"
#include "data/shapes.h"
#include "rewards/mixture.h"

/* ---- made-up rewards: a picture is one pixel (v, sample, 0) ---- */

static int value_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		       struct err *e)
{
	(void)state, (void)e;
	for (int i = 0; i < n; i++) {
		out[i].ok = true;
		out[i].value = item[i].rgb[0];
		out[i].sub[1] = item[i].rgb[1];
	}
	return 0;
}

/* Everything a reward can do wrong, chosen by the first byte. */
static int faulty_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			struct err *e)
{
	(void)state;
	for (int i = 0; i < n; i++) {
		out[i].ok = true;
		out[i].value = 1;
		switch (item[i].rgb[0]) {
		case 1:
			out[i].value = NAN;
			break;
		case 2:
			out[i].value = INFINITY;
			break;
		case 3:
			out[i].ok = false;
			snprintf(out[i].why, sizeof out[i].why, "no text in sample %d", item[i].rgb[1]);
			break;
		case 4: /* says nothing at all */
			out[i] = (struct reward_score) { 0 };
			break;
		case 5:
			return err_set(e, "server gone at sample %d", item[i].rgb[1]);
		default:
			break;
		}
	}
	return 0;
}

static atomic_int inside, most_inside, calls;

/* Not thread-safe: notices company. */
static int alone_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		       struct err *e)
{
	int now = atomic_fetch_add(&inside, 1) + 1;

	if (now > atomic_load(&most_inside))
		atomic_store(&most_inside, now);
	atomic_fetch_add(&calls, 1);
	nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
	int ret = value_score(state, item, n, out, e);
	atomic_fetch_sub(&inside, 1);
	return ret;
}

static sem_t go;

/* False after 20 s: a test that would hang fails instead. */
static bool wait_for(sem_t *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	while (sem_timedwait(s, &until))
		if (errno != EINTR)
			return false;
	return true;
}

/* Slow: waits until the caller lets it go on, once a call. */
static int slow_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	if (!wait_for(&go))
		return err_set(e, "the caller was blocked");
	return value_score(state, item, n, out, e);
}

/* Every sample fails; the first of three only when the third is reached, so that the second's reason is known
 * before. */
static int late_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	(void)state, (void)n, (void)out;
	if (item[0].rgb[1] == 2)
		sem_post(&go);
	if (item[0].rgb[1] == 0 && !wait_for(&go))
		return err_set(e, "the third sample never came");
	return err_set(e, "sample %d", item[0].rgb[1]);
}

static sem_t arrived;

/* Needs company: only goes on when the slow reward's caller sees two threads here. */
static int meeting_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	sem_post(&arrived);
	return slow_score(state, item, n, out, e);
}

static const struct reward_type value_reward = {
	.abi = REWARD_ABI, .name = "value", .flags = REWARD_THREAD_SAFE, .score = value_score
};
static const struct reward_type faulty_reward = {
	.abi = REWARD_ABI, .name = "faulty", .flags = REWARD_THREAD_SAFE, .score = faulty_score
};
static const struct reward_type alone_reward = { .abi = REWARD_ABI, .name = "alone", .score = alone_score };
static const struct reward_type slow_reward = { .abi = REWARD_ABI, .name = "slow", .score = slow_score };
static const struct reward_type meeting_reward = {
	.abi = REWARD_ABI, .name = "meeting", .flags = REWARD_THREAD_SAFE, .score = meeting_score
};

static const struct reward_type late_reward = {
	.abi = REWARD_ABI, .name = "late", .flags = REWARD_THREAD_SAFE, .score = late_score
};

/* Hands over pixels[i] as sample i, `batch` at a time, from a buffer that is spoilt at once. */
static void submit_all(struct mixture *m, uint8_t (*pixel)[3], int n, int batch)
{
	for (int first = 0; first < n; first += batch) {
		int k = n - first < batch ? n - first : batch;
		struct reward_item *item = mem_alloc((size_t)k * sizeof *item);
		uint8_t *copy = memcpy(mem_alloc((size_t)k * 3), pixel[first], (size_t)k * 3);
		for (int i = 0; i < k; i++)
			item[i] = (struct reward_item) { copy + 3 * i, 1, 1, "p", "{}" };
		mixture_submit(m, first, item, k);
		memset(copy, 77, (size_t)k * 3);
		free(copy);
		free(item);
	}
}

static void weighted_sum(void **state)
{
	enum { N = 23 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 2 },
					       { .type = &alone_reward, .weight = -0.5 } };
	uint8_t pixel[N][3];

	(void)state;
	for (int i = 0; i < N; i++)
		pixel[i][0] = (uint8_t)(10 * i), pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	for (int threads = 0; threads < 8; threads += 3) {
		for (int batch = 1; batch <= N; batch += 5) {
			struct mixture *m = mixture_new(entry, 2, threads);
			struct mixture_scores s;
			assert_int_equal(mixture_count(m), 2);
			assert_ptr_equal(mixture_at(m, 1)->type, &alone_reward);
			mixture_scores_init(&s, N, 2);
			mixture_begin(m, &s);
			submit_all(m, pixel, N, batch);
			assert_true(mixture_wait(m) >= 0);
			assert_int_equal(s.unavailable, 0);
			assert_string_equal(s.why, "");
			for (int i = 0; i < N; i++) {
				assert_true(s.value[i] == 10 * i && s.value[N + i] == 10 * i);
				assert_true(s.total[i] == 1.5 * 10 * i);
				assert_true(isnan(s.sub[i * REWARD_SUBS]));
				assert_true(s.sub[i * REWARD_SUBS + 1] == i);
			}
			mixture_scores_free(&s);
			mixture_close(m);
		}
	}
}

static void unavailable_is_no_number(void **state)
{
	enum { N = 12 };
	static const uint8_t kind[N] = { 0, 0, 3, 1, 0, 2, 4, 0, 0, 5, 0, 0 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 1 },
					       { .type = &faulty_reward, .weight = 1 } };
	uint8_t pixel[N][3];

	(void)state;
	for (int i = 0; i < N; i++)
		pixel[i][0] = kind[i], pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	for (int threads = 1; threads < 6; threads++) {
		struct mixture *m = mixture_new(entry, 2, threads);
		struct mixture_scores s;
		mixture_scores_init(&s, N, 2);
		mixture_begin(m, &s);
		submit_all(m, pixel, N, 1);
		mixture_wait(m);
		for (int i = 0; i < N; i++) {
			assert_true(s.value[i] == kind[i]); /* the other reward's scores stay */
			assert_int_equal(isnan(s.value[N + i]), kind[i] != 0);
			assert_int_equal(isnan(s.total[i]), kind[i] != 0);
		}
		assert_int_equal(s.unavailable, 5);
		/* The first sample's reason, whichever thread was first. */
		assert_string_equal(s.why, "faulty: no text in sample 2");
		mixture_scores_free(&s);
		mixture_close(m);
	}
}

static void first_reason_in_order(void **state)
{
	enum { N = 3 };
	const struct mixture_entry entry = { .type = &late_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 0, 0, 0 }, { 0, 1, 0 }, { 0, 2, 0 } };
	struct mixture_scores s;

	(void)state;
	sem_init(&go, 0, 0);
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, pixel, N, 1);
	mixture_wait(m);
	assert_int_equal(s.unavailable, N);
	assert_string_equal(s.why, "late: sample 0");
	mixture_scores_free(&s);
	mixture_close(m);
}

/* A call that fails takes its whole batch with it; a reward that is not thread-safe gets batches whole. */
static void failing_call(void **state)
{
	enum { N = 8 };
	struct reward_type one_by_one = faulty_reward;
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	one_by_one.flags = 0;
	const struct mixture_entry entry = { .type = &one_by_one, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 3);
	for (int i = 0; i < N; i++)
		pixel[i][1] = (uint8_t)i;
	pixel[6][0] = 5;
	mixture_scores_init(&s, N, 1);
	for (int round = 0; round < 3; round++) {
		mixture_begin(m, &s);
		submit_all(m, pixel, N, 4);
		mixture_wait(m);
		assert_int_equal(s.unavailable, round < 2 ? 4 : 0);
		for (int i = 0; i < N; i++)
			assert_int_equal(isnan(s.total[i]), round < 2 && i >= 4);
		assert_string_equal(s.why, round < 2 ? "faulty: server gone at sample 6" : "");
		pixel[6][0] = round ? 0 : 5; /* the next set is none the worse */
	}
	mixture_scores_free(&s);
	mixture_close(m);
}

static void not_handed_over(void **state)
{
	const struct mixture_entry entry = { .type = &value_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[2][3] = { { 7, 0, 0 }, { 8, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	mixture_scores_init(&s, 3, 1);
	mixture_begin(m, &s);
	mixture_submit(m, 0, NULL, 0);
	submit_all(m, pixel, 2, 2);
	mixture_wait(m);
	assert_true(s.total[0] == 7 && s.total[1] == 8 && isnan(s.total[2]));
	assert_int_equal(s.unavailable, 1);
	mixture_scores_free(&s);
	mixture_close(m);
}

static void unsafe_rewards_run_alone(void **state)
{
	enum { N = 60 };
	const struct mixture_entry entry[] = { { .type = &alone_reward, .weight = 1 },
					       { .type = &value_reward, .weight = 1 } };
	struct mixture *m = mixture_new(entry, 2, 6);
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	atomic_store(&most_inside, 0);
	atomic_store(&calls, 0);
	mixture_scores_init(&s, N, 2);
	mixture_begin(m, &s);
	submit_all(m, pixel, N, 2);
	mixture_wait(m);
	assert_int_equal(s.unavailable, 0);
	assert_int_equal(atomic_load(&most_inside), 1);
	assert_int_equal(atomic_load(&calls), N / 2);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* A thread-safe reward's batch is shared out: two threads must be inside at once before either may leave. */
static void safe_rewards_run_together(void **state)
{
	enum { N = 2 };
	const struct mixture_entry entry = { .type = &meeting_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 5, 0, 0 }, { 6, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	sem_init(&go, 0, 0);
	sem_init(&arrived, 0, 0);
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, pixel, N, N);
	for (int i = 0; i < N; i++)
		assert_true(wait_for(&arrived));
	for (int i = 0; i < N; i++)
		sem_post(&go);
	mixture_wait(m);
	assert_true(s.total[0] == 5 && s.total[1] == 6);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* The caller goes on while a slow reward waits for it, and a quick reward overtakes the slow one. */
static void caller_overlaps(void **state)
{
	enum { N = 6 };
	const struct mixture_entry entry[] = { { .type = &slow_reward, .weight = 1 },
					       { .type = &meeting_reward, .weight = 1 } };
	struct mixture *m = mixture_new(entry, 2, 2);
	uint8_t pixel[N][3] = { { 3, 0, 0 }, { 4, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	sem_init(&go, 0, 0);
	sem_init(&arrived, 0, 0);
	mixture_scores_init(&s, N, 2);
	mixture_begin(m, &s);
	submit_all(m, pixel, N, 1);      /* returns though no score can be finished yet */
	assert_true(wait_for(&arrived)); /* the other thread did not queue up behind the slow reward */
	for (int i = 0; i < 2 * N; i++)
		sem_post(&go);
	mixture_wait(m);
	assert_int_equal(s.unavailable, 0);
	assert_true(s.total[0] == 6 && s.total[1] == 8);
	mixture_scores_free(&s);
	mixture_close(m);
}

static void close_with_work_left(void **state)
{
	enum { N = 40 };
	const struct mixture_entry entry = { .type = &alone_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, pixel, N, 1);
	mixture_close(m); /* the sanitizers look for what is left */
	mixture_scores_free(&s);
	mixture_close(NULL);
}

/* ---- configuration ---- */

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
	refuse("other: 1\n", "rewards: none is given");
	refuse("rewards: {}\n", ":1: rewards: none is given");
	refuse("rewards:\n  genevla: {weight: 1}\n",
	       ":2: rewards: no reward is called 'genevla'; did you mean 'geneval'?");
	refuse("rewards:\n  xyz: {weight: 1}\n", "geneval, ocr, clipscore");
	refuse("rewards:\n  geneval: {wieght: 1}\n", "did you mean 'rewards.geneval.weight'?");
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
	refuse("rewards:\n  a b: {type: geneval}\n", ":2: rewards: 'a b' is no name");
	refuse("rewards:\n  \"\": {type: geneval}\n", "'' is no name");
	refuse("rewards:\n  mean: {type: geneval}\n", ":2: rewards: an entry cannot be called 'mean'");
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
	const struct reward_item item = { rgb, 1, 1, "p", "{}" };

	(void)state;
	assert_int_equal(open_yaml(&m, yaml, &e), 0);
	assert_int_equal(mixture_count(m), 3);
	assert_string_equal(mixture_at(m, 0)->name, "plain");
	assert_string_equal(mixture_at(m, 1)->name, "ocr");
	assert_string_equal(mixture_at(m, 1)->type->name, "geneval");
	assert_true(mixture_at(m, 0)->weight == 2 && mixture_at(m, 1)->weight == 1);
	mixture_scores_init(&s, 1, 3);
	mixture_begin(m, &s);
	mixture_submit(m, 0, &item, 1);
	mixture_wait(m);
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
		   "class 'bench' (known: circle, square, triangle, cross)");
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
	size_t bytes;

	(void)state;
	assert_int_equal(shapes_scene(&scene, &world, meta, &r, &e), 0);
	shapes_render(&scene, &world, rgb);
	assert_int_equal(image_jpeg_size(&bytes, 24, 24, rgb, 95, &e), 0);
	for (int i = 0; i < N; i++)
		item[i] = (struct reward_item) { rgb, 24, 24, "p", asked[i] };
	assert_int_equal(
	    open_yaml(&m, "rewards: {geneval: {}, jpeg_compressibility: {}, jpeg_incompressibility: {}}\n",
		      &e),
	    0);
	mixture_scores_init(&s, N, 3);
	mixture_begin(m, &s);
	mixture_submit(m, 0, item, N);
	mixture_wait(m);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weighted_sum),
		cmocka_unit_test(unavailable_is_no_number),
		cmocka_unit_test(first_reason_in_order),
		cmocka_unit_test(failing_call),
		cmocka_unit_test(not_handed_over),
		cmocka_unit_test(unsafe_rewards_run_alone),
		cmocka_unit_test(safe_rewards_run_together),
		cmocka_unit_test(caller_overlaps),
		cmocka_unit_test(close_with_work_left),
		cmocka_unit_test(bad_configuration),
		cmocka_unit_test(entries_with_names),
		cmocka_unit_test(resolved_configuration),
		cmocka_unit_test(prompts_are_checked),
		cmocka_unit_test(real_rewards),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
