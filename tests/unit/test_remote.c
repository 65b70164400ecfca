/* A mixture whose rewards are elsewhere: two servers in threads of this process, messages in queues. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include "rewards/mixture/remote.h"
#include "tests/unit/made_up.h"

enum { SERVERS = 2, CLIENT = SERVERS };

/* ---- messages ---- */

struct letter {
	struct letter *next;
	int from;
	size_t size;
	char *data;
};
static struct letter *box[SERVERS + 1];
static pthread_mutex_t post_office = PTHREAD_MUTEX_INITIALIZER;
static atomic_int posted[SERVERS + 1];

/* ctx: who one is */
static void send_letter(void *ctx, int to, const void *data, size_t size)
{
	struct letter *l = mem_zero(1, sizeof *l), **at = &box[to];

	*l = (struct letter) { NULL, *(int *)ctx, size, memcpy(mem_alloc(size + 1), data, size) };
	l->data[size] = '\0';
	atomic_fetch_add(&posted[to], 1);
	pthread_mutex_lock(&post_office);
	while (*at)
		at = &(*at)->next;
	*at = l;
	pthread_mutex_unlock(&post_office);
}

static bool receive_letter(void *ctx, int *from, char **data, size_t *size)
{
	pthread_mutex_lock(&post_office);
	struct letter *l = box[*(int *)ctx];
	if (l)
		box[*(int *)ctx] = l->next;
	pthread_mutex_unlock(&post_office);
	if (!l)
		return false;
	*from = l->from;
	*data = l->data;
	*size = l->size;
	free(l);
	return true;
}

static const char *name_of(void *ctx, int server)
{
	(void)ctx;
	return server ? "server 1" : "server 0";
}

static struct remote_link link_of(int *who)
{
	return (struct remote_link) { who, send_letter, receive_letter, SERVERS, name_of };
}

/* ---- rewards: the mixture's own names, because the client reads a section of real ones ---- */

/* In place of jpeg_compressibility: value, sub-score, and failures of every kind. */
static int singles(void *state, const struct reward_item *item, int n, struct reward_score *out,
		   struct err *e)
{
	for (int i = 0; i < n; i++)
		if (item[i].rgb[0] == 9)
			return err_set(e, "a nine at %d", item[i].rgb[1]);
	value_score(state, item, n, out, e);
	for (int i = 0; i < n; i++)
		if (item[i].rgb[0] == 8)
			out[i] = (struct reward_score) { .why = "an eight" };
	return 0;
}

/* In place of the other: a ranking. */
static int groups(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	(void)state, (void)e;
	for (int i = 0; i < n; i++) {
		out[i].ok = true;
		out[i].value = 0;
		for (int k = 0; k < n; k++)
			out[i].value += item[k].rgb[0] < item[i].rgb[0] ? 0.1 : 0;
		out[i].sub[3] = n;
	}
	return 0;
}

static int no_cats(void *state, const char *prompt, const char *meta, struct err *e)
{
	(void)state;
	return strstr(prompt, "cat") || strcmp(meta, "{}") ? err_set(e, "no cats") : 0;
}

static const struct reward_type singles_type = {
	.abi = REWARD_ABI, .name = "singles", .score = singles, .check = no_cats
};
static const struct reward_type groups_type = { .abi = REWARD_ABI, .name = "groups", .score = groups };

static struct mixture *here(void)
{
	const struct mixture_entry entry[] = {
		{ .type = &singles_type, .weight = 2, .name = mem_str("jpeg_compressibility") },
		{ .type = &groups_type,
		  .weight = 3,
		  .name = mem_str("jpeg_incompressibility"),
		  .group = true }
	};

	return mixture_new(entry, 2, 1);
}

static int open_set(void *ctx, struct mixture **m, int set, struct err *e)
{
	if (set == 1 && *(int *)ctx == 1)
		return err_set(e, "no room for set 1");
	*m = here();
	return 0;
}

static void *serve(void *who)
{
	struct remote_link link = link_of(who);
	struct remote_server *s = remote_server_new(&link, &(struct remote_sets) { who, open_set });
	bool idle;

	while (remote_server_step(s, &idle))
		if (idle)
			nanosleep(&(struct timespec) { 0, 100000 }, NULL);
	remote_server_free(s);
	return NULL;
}

/* ---- tests ---- */

static int who[SERVERS + 1] = { 0, 1, CLIENT };
static pthread_t thread[SERVERS];
static struct conf_node *root;

static int start(void **unused)
{
	struct err e;

	(void)unused;
	root = conf_empty();
	for (int i = 0; i < SERVERS; i++)
		pthread_create(&thread[i], NULL, serve, &who[i]);
	return conf_set(
	    root, "rewards={jpeg_compressibility: {weight: 2}, jpeg_incompressibility: {weight: 3}}", &e);
}

static int stop(void **unused)
{
	struct remote_link link = link_of(&who[CLIENT]);

	(void)unused;
	remote_dismiss(&link);
	for (int i = 0; i < SERVERS; i++)
		pthread_join(thread[i], NULL);
	conf_node_free(root);
	return box[0] || box[1] || box[2]; /* nothing is left in a box */
}

enum { N = 14, G = 7 };

static void hand_over(struct mixture *m, struct mixture_scores *s)
{
	static const uint8_t value[N] = { 3, 1, 8, 2, 5, 5, 4, 9, 1, 0, 7, 8, 2, 6 };
	uint8_t pixel[N][3];

	mixture_scores_init(s, N, 2);
	mixture_begin(m, s);
	for (int i = 0; i < N; i++)
		pixel[i][0] = value[i], pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	submit_all(m, s, pixel, N, 3);
	for (int g = 0; g < 2; g++) {
		struct reward_item item[G];
		int sample[G];

		for (int i = 0; i < G; i++) {
			sample[i] = 2 * i + g;
			item[i] = (struct reward_item) { pixel[sample[i]], 1, 1, "p", "{}", 0 };
		}
		mixture_submit_group(m, s, sample, item, G);
	}
	memset(pixel, 77, sizeof pixel);
	finish(m, s);
}

/* The bits of a mixture that has the rewards here, values, sub-scores and the reason. */
static void same_scores(void **unused)
{
	struct remote_link link = link_of(&who[CLIENT]);
	struct mixture *m, *local = here();
	struct mixture_scores a, b;
	struct err e = { "" };
	int before[SERVERS];

	(void)unused;
	for (int i = 0; i < SERVERS; i++)
		before[i] = atomic_load(&posted[i]);
	if (remote_open(&m, root, &link, 0, true, 1, &e))
		fail_msg("%s", e.msg);
	assert_true(mixture_at(m, 1)->group && !mixture_at(m, 0)->group); /* the servers know that */
	assert_true(mixture_at(m, 0)->weight == 2 && mixture_at(m, 1)->weight == 3);
	for (int round = 0; round < 20; round++) {
		hand_over(local, &a);
		hand_over(m, &b);
		assert_memory_equal(a.value, b.value, 2 * N * sizeof *a.value);
		assert_memory_equal(a.total, b.total, N * sizeof *a.total);
		for (int i = 0; i < 2 * N * REWARD_SUBS; i++)
			assert_true(a.sub[i] == b.sub[i] || (isnan(a.sub[i]) && isnan(b.sub[i])));
		assert_int_equal(a.unavailable, b.unavailable);
		assert_int_equal(b.unavailable, 5); /* 8; 9, with the two beside it; 8 */
		assert_string_equal(a.why, b.why);
		assert_string_equal(b.why, "jpeg_compressibility: an eight");
		mixture_scores_free(&a);
		mixture_scores_free(&b);
	}
	mixture_close(local);
	mixture_close(m);
	for (int i = 0; i < SERVERS; i++) /* 7 batches and groups a round, in turn */
		assert_int_equal(atomic_load(&posted[i]) - before[i], 1 + 70);
}

static void check_at_the_servers(void **unused)
{
	struct remote_link link = link_of(&who[CLIENT]);
	const struct reward_item item[] = { { .prompt = "a dog", .meta = "{}" },
					    { .prompt = "a cat", .meta = "{}" },
					    { .prompt = "two cats", .meta = "{}" } };
	struct mixture *m, *other;
	struct err e = { "" };
	int bad = -1;

	(void)unused;
	assert_int_equal(remote_open(&m, root, &link, 2, true, 0, &e), 0);
	assert_int_equal(mixture_check_all(m, item, 1, &bad, &e), 0);
	assert_int_equal(mixture_check_all(m, item, 3, &bad, &e), -1);
	assert_int_equal(bad, 1);
	assert_string_equal(e.msg, "reward jpeg_compressibility cannot score 'a cat': no cats");
	assert_int_equal(mixture_check(m, "a dog", "{\"n\": 1}", &e), -1);
	/* who is not in charge does not ask */
	assert_int_equal(remote_open(&other, root, &link, 2, false, 0, &e), 0);
	assert_int_equal(mixture_check_all(other, item, 3, &bad, &e), 0);
	mixture_close(other);
	mixture_close(m);
}

/* One line that names the server; the next set opens again. */
static void failing_to_open(void **unused)
{
	struct remote_link link = link_of(&who[CLIENT]);
	struct mixture *m = NULL;
	struct err e = { "" };

	(void)unused;
	assert_int_equal(remote_open(&m, root, &link, 1, true, 0, &e), -1);
	assert_string_equal(e.msg, "server 1: no room for set 1");
	assert_int_equal(remote_open(&m, root, &link, 3, true, 0, &e), 0);
	mixture_close(m);
	struct conf_node *wrong = conf_empty();
	assert_int_equal(conf_set(wrong, "rewards={genevil: {}}", &e), 0);
	assert_int_equal(remote_open(&m, wrong, &link, 0, true, 0, &e), -1);
	assert_non_null(strstr(e.msg, "geneval"));
	conf_node_free(wrong);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_scores),
		cmocka_unit_test(check_at_the_servers),
		cmocka_unit_test(failing_to_open),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
