/* A thousand faults of judges: no file descriptor, process, thread or byte is left behind (the sanitizers
 * watch the bytes). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/http/http.h"
#include "base/log.h"
#include "base/text.h"
#include "rewards/judges/reply.h"

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static uint8_t pixels[12];
static const struct reward_item item[2] = { { pixels, 2, 2, "a", "{}", 0 },
					    { pixels, 2, 2, "b", "{\"n\": 1}", 0 } };

/* rewards.NAME with these keys. */
static void *open_reward(const char *name, const char *keys, void **conf, const struct reward_type **type)
{
	struct conf_node *tree = conf_empty();
	struct err e = { "" };
	void *state = NULL;

	*type = reward_find(name, &e);
	assert_non_null(*type);
	char set[400];
	snprintf(set, sizeof set, "x=%s", keys);
	*conf = calloc(1, (*type)->conf_size);
	if (conf_set(tree, set, &e) || conf_fill(*conf, (*type)->fields, tree, "x", NULL, &e) ||
	    (*type)->open(&state, *conf, &e) || ((*type)->load && (*type)->load(state, &e)))
		fail_msg("%s", e.msg);
	conf_node_free(tree);
	return state;
}

static void close_reward(const struct reward_type *type, void *state, void *conf)
{
	type->close(state);
	conf_release(conf, type->fields);
	free(conf);
}

static void many(const struct reward_type *type, void *state, int n)
{
	for (int i = 0; i < n; i++) {
		struct reward_score out[2];
		struct err e;

		assert_int_equal(type->score(state, item, 2, out, &e), 0);
		assert_false(out[0].ok || out[1].ok);
		assert_true(*out[0].why && isnan(out[0].sub[0]));
	}
}

static void children(void **unused)
{
	static const char *const commands[] = {
		"[sh, -c, exit 3]",                           /* dies at once */
		"[sh, -c, head -c 50 >/dev/null; exit 0]",    /* reads a little */
		"[sh, -c, printf 12345678901234567890; cat]", /* speaks, and not in frames */
		"[sh, -c, sleep 60 & cat > /dev/null]",       /* hangs, with a child of its own */
	};
	int before;

	(void)unused;
	log_quiet(true);
	before = entries("/proc/self/fd");
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
		const struct reward_type *type;
		char keys[200];
		void *conf;

		snprintf(keys, sizeof keys, "{command: %s, retries: 0, timeout: %s}", commands[i],
			 i == 3 ? "0.002" : "1");
		void *state = open_reward("exec", keys, &conf, &type);
		many(type, state, i == 3 ? 40 : 320); /* a child each */
		close_reward(type, state, conf);
	}
	assert_int_equal(entries("/proc/self/fd"), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD); /* not even a zombie */
}

/* A server that accepts and hangs up, or answers with what is no HTTP. */
static void *rude(void *arg)
{
	int s = *(int *)arg, k = 0;

	for (int c; (c = accept(s, NULL, NULL)) >= 0; k++) {
		if (k % 3 == 1)
			(void)!write(c, "what?\r\n\r\n", 9);
		if (k % 3 == 2)
			(void)!write(c, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", 40);
		close(c);
	}
	return NULL;
}

static void sockets(void **unused)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof a;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), before, threads;
	pthread_t thread;
	char keys[200];

	(void)unused;
	assert_int_equal(bind(s, (struct sockaddr *)&a, size) || listen(s, 64) ||
			     getsockname(s, (struct sockaddr *)&a, &size),
			 0);
	pthread_create(&thread, NULL, rude, &s);
	before = entries("/proc/self/fd");
	threads = entries("/proc/self/task");
	for (int i = 0; i < 2; i++) {
		const struct reward_type *type;
		void *conf;

		snprintf(keys, sizeof keys,
			 "{url: \"http://127.0.0.1:%d/\", retries: 0, timeout: 5, deadline: 5, in_flight: 2}",
			 ntohs(a.sin_port));
		void *state = open_reward(i ? "openai" : "http", keys, &conf, &type);
		many(type, state, 300);
		close_reward(type, state, conf);
	}
	assert_int_equal(entries("/proc/self/task"), threads);
	assert_int_equal(entries("/proc/self/fd"), before);
	shutdown(s, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(s);
}

static void base64(void **unused)
{
	static const char *const pairs[][2] = { { "", "" },
						{ "f", "Zg==" },
						{ "fo", "Zm8=" },
						{ "foo", "Zm9v" },
						{ "foob", "Zm9vYg==" },
						{ "fooba", "Zm9vYmE=" },
						{ "foobar", "Zm9vYmFy" } }; /* RFC 4648, 10 */

	(void)unused;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		struct text t = { 0 };

		text_base64(&t, pairs[i][0], strlen(pairs[i][0]));
		assert_string_equal(t.s, pairs[i][1]);
		text_free(&t);
		assert_true(text_unbase64(&t, pairs[i][1], strlen(pairs[i][1])));
		assert_int_equal(t.n, strlen(pairs[i][0]));
		assert_string_equal(t.s, pairs[i][0]);
		text_free(&t);
	}
	struct text t = { 0 };
	text_base64(&t, "\xff\xfe\xfb\xff", 4);
	assert_string_equal(t.s, "//77/w==");
	text_free(&t);
	assert_true(text_unbase64(&t, "//77/w==", 8) && t.n == 4 && !memcmp(t.s, "\xff\xfe\xfb\xff", 4));
	/* not what text_base64 writes: nothing is appended */
	static const char *const bad[] = { "Z",    "Zg",   "Zg=",  "=",       "====", "Z===",        "Zm9v=",
					   "Zm=v", "Zh==", "Zm9=", "Zm 9vYg", "Zm9-", "Zm9v\n\n\n\n" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_false(text_unbase64(&t, bad[i], strlen(bad[i])));
	assert_int_equal(t.n, 4);
	text_free(&t);
}

static void replies(void **unused)
{
	static const char good[] = "{\"scores\": [1, {\"score\": -2.5}]}";
	static const char some[] =
	    "{\"scores\": [{\"score\": NaN}, {\"score\": 0.5, \"strict\": true, \"why\": \"ok\"}]}";
	static const char served[] =
	    "{\"scores\": [Infinity, {\"score\": 2, \"rewards\": {\"ocr\": {\"score\": 1, \"why\": "
	    "null}, \"geneval\": {\"score\": 1, \"strict\": 0, \"why\": \"found 1\"}}}]}";
	static const char large[] = "{\"scores\": [1e400, -1e308]}", all[] = "{\"error\": \"out of memory\"}";
	const struct conf_list none = { 0 }, subs = { (char *[]) { "strict", "other" }, 2 };
	struct reward_score out[2];
	struct err e;

	(void)unused;
	assert_int_equal(reply_scores(out, 2, &subs, some, strlen(some), &e), 0);
	assert_false(out[0].ok);
	assert_true(out[1].ok && out[1].value == 0.5 && out[1].sub[0] == 1 && isnan(out[1].sub[1]));
	assert_string_equal(out[1].why, "ok");
	assert_int_equal(reply_scores(out, 2, &subs, served, strlen(served), &e), 0);
	assert_false(out[0].ok);
	assert_true(out[1].ok && out[1].value == 2 && out[1].sub[0] == 0);
	assert_string_equal(out[1].why, "found 1");
	assert_int_equal(reply_scores(out, 2, &none, large, strlen(large), &e), 0);
	assert_false(out[0].ok || out[1].ok);
	assert_non_null(strstr(out[1].why, "the reward's score of -1e+308 is beyond +-1e+30"));
	/* it goes on, so this is no error of the protocol */
	assert_int_equal(reply_scores(out, 2, &none, all, strlen(all), &e), 0);
	assert_false(out[0].ok || out[1].ok);
	assert_string_equal(out[1].why, "the reward says: out of memory");
	assert_int_equal(reply_scores(out, 2, &none, good, strlen(good), &e), 0);
	assert_true(out[0].ok && out[0].value == 1 && out[1].ok && out[1].value == -2.5);
	assert_int_equal(reply_scores(out, 1, &none, good, strlen(good), &e), -1);
	assert_non_null(strstr(out[0].why, "2 scores for 1"));
	for (int group = 0; group < 2; group++) {
		json_t *o = reply_request(item, 2, group), *list = json_object_get(o, "items");
		json_t *x = json_array_get(list, 1);
		assert_int_equal(json_integer_value(json_object_get(json_object_get(x, "meta"), "n")), 1);
		assert_string_equal(json_string_value(json_object_get(x, "prompt")), "b");
		assert_int_equal(json_is_true(json_object_get(o, "group")), group);
		assert_int_equal(json_array_size(list), 2);
		json_decref(o);
	}
}

/* What a reward says of its images. */
static void scores(void **unused)
{
	const double value[3] = { 0.5, NAN, -INFINITY };
	struct reward_score out[3];
	char longer[400];

	(void)unused;
	memset(out, 0x55, sizeof out);
	reward_put(out, 3, value, "the reward's");
	assert_true(out[0].ok && out[0].value == 0.5 && !out[0].why[0]);
	for (int i = 1; i < 3; i++) {
		assert_false(out[i].ok);
		assert_string_equal(out[i].why, "the reward's score is not finite");
	}
	for (int i = 0; i < 3; i++)
		for (int k = 0; k < REWARD_SUBS; k++)
			assert_true(isnan(out[i].sub[k]));
	memset(longer, 'x', sizeof longer);
	longer[sizeof longer - 1] = '\0';
	reward_fail(out, 3, longer);
	assert_false(out[2].ok);
	assert_true(isnan(out[2].value) && isnan(out[2].sub[0]));
	assert_int_equal(strlen(out[2].why), REWARD_WHY - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base64),   cmocka_unit_test(replies), cmocka_unit_test(scores),
		cmocka_unit_test(children), cmocka_unit_test(sockets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
