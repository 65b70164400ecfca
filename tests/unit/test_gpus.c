/* CUDA_VISIBLE_DEVICES as CUDA reads it (its programming guide, "CUDA environment variables"). */
#include "base/file.h"
#include "base/machine/gpus.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct gpu four[] = {
	{ "0", "GPU-aaaa1111" }, { "1", "GPU-aaaa2222" }, { "2", "GPU-bbbb3333" }, { "3", "GPU-cccc4444" }
};

/* Names and ids of what `visible` leaves of four GPUs, as text: "1=GPU-aaaa2222 ". */
static const char *left(const char *visible)
{
	static char text[4096];
	struct gpu out[GPUS_MOST];
	int n = gpus_left(out, visible, four, 4), at = 0;

	*text = '\0';
	for (int i = 0; i < n; i++)
		at += snprintf(text + at, sizeof text - (size_t)at, "%s=%s ", out[i].name, out[i].id);
	return text;
}

static void test_indices(void **state)
{
	(void)state;
	assert_string_equal(left(NULL), "0=GPU-aaaa1111 1=GPU-aaaa2222 2=GPU-bbbb3333 3=GPU-cccc4444 ");
	assert_string_equal(left("2"), "2=GPU-bbbb3333 ");
	assert_string_equal(left("3,0"), "3=GPU-cccc4444 0=GPU-aaaa1111 ");
	assert_string_equal(left(" 3 , 1 "), "3=GPU-cccc4444 1=GPU-aaaa2222 ");
	assert_string_equal(left("1gpu"), "1gpu=GPU-aaaa2222 ");
}

static void test_ends(void **state)
{
	(void)state;
	assert_string_equal(left(""), "");
	assert_string_equal(left("-1"), "");
	assert_string_equal(left("none"), "");
	assert_string_equal(left(",1"), "");
	assert_string_equal(left("1,-1,2"), "1=GPU-aaaa2222 ");
	assert_string_equal(left("1,4,2"), "1=GPU-aaaa2222 ");
	assert_string_equal(left("1,,2"), "1=GPU-aaaa2222 ");
	assert_string_equal(left("1,"), "1=GPU-aaaa2222 ");
	assert_string_equal(left("99999999999999999999"), "");
}

static void test_twice(void **state)
{
	(void)state;
	assert_string_equal(left("1,1"), "");
	assert_string_equal(left("0,1,2,0"), "");
	assert_string_equal(left("1,GPU-aaaa2222"), "");
	assert_string_equal(left("MIG-7,MIG-7"), "");
}

/* As much of a UUID as tells it from the others. */
static void test_uuids(void **state)
{
	(void)state;
	assert_string_equal(left("GPU-cccc4444,GPU-aaaa1111"),
			    "GPU-cccc4444=GPU-cccc4444 GPU-aaaa1111=GPU-aaaa1111 ");
	assert_string_equal(left("GPU-b"), "GPU-b=GPU-bbbb3333 ");
	assert_string_equal(left("GPU-aaaa"), "");
	assert_string_equal(left("0,GPU-dddd,1"), "0=GPU-aaaa1111 ");
	assert_string_equal(left("MIG-12/3/0,MIG-12/4/0"), "MIG-12/3/0=MIG-12/3/0 MIG-12/4/0=MIG-12/4/0 ");
}

/* Where there is no NVML, UUIDs are not known: any may be there. */
static void test_unknown(void **state)
{
	const struct gpu two[] = { { "0", "" }, { "1", "" } };
	struct gpu out[GPUS_MOST];

	(void)state;
	assert_int_equal(gpus_left(out, "GPU-1,GPU-2", two, 2), 2);
	assert_string_equal(out[1].id, "GPU-2");
	assert_int_equal(gpus_left(out, "1,0", two, 2), 2);
	assert_string_equal(out[0].id, "");
	assert_int_equal(gpus_left(out, "0,1,2", two, 2), 2);
	assert_int_equal(gpus_left(out, "0", two, 0), 0);
	assert_int_equal(gpus_left(out, NULL, two, 0), 0);
}

/* No list is too long, and no entry. */
static void test_long(void **state)
{
	static char list[16 * GPUS_MOST];
	struct gpu out[GPUS_MOST];
	char entry[3 * GPU_NAME];

	(void)state;
	for (int i = 0; i < GPUS_MOST + 9; i++)
		sprintf(list + strlen(list), "MIG-%d,", i);
	assert_int_equal(gpus_left(out, list, four, 4), GPUS_MOST);
	memset(entry, '1', sizeof entry - 1);
	entry[sizeof entry - 1] = '\0';
	assert_int_equal(gpus_left(out, entry, four, 4), 0);
}

/* Without NVML, those in /proc: their order is not CUDA's, so a single one alone is known. */
static void test_proc(void **state)
{
	char root[] = "/tmp/gpus-XXXXXX", path[128];
	struct gpu all[GPUS_MOST];
	struct err e;

	(void)state;
	assert_non_null(mkdtemp(root));
	gpus_root = root;
	unsetenv("FAKE_GPUS");
	assert_int_equal(gpus_of_machine(all), 0);
	snprintf(path, sizeof path, "%s/proc/driver/nvidia/gpus/0000:3d:00.0", root);
	assert_int_equal(file_mkdirs(path, &e), 0);
	assert_int_equal(gpus_of_machine(all), 1);
	assert_string_equal(all[0].name, "0");
	assert_string_equal(all[0].id, "0000:3d:00.0");
	snprintf(path, sizeof path, "%s/proc/driver/nvidia/gpus/0000:1c:00.0", root);
	assert_int_equal(file_mkdirs(path, &e), 0);
	assert_int_equal(gpus_of_machine(all), 2);
	assert_string_equal(all[1].name, "1");
	assert_string_equal(all[0].id, "");
	setenv("FAKE_GPUS", "ab-d", 1); /* NVML's come first */
	assert_int_equal(gpus_of_machine(all), 3);
	assert_string_equal(all[2].id, "GPU-00000000-0000-0000-0000-00000000000d");
	assert_int_equal(file_remove_tree(root, &e), 0);
	gpus_root = "";
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_indices), cmocka_unit_test(test_ends),    cmocka_unit_test(test_twice),
		cmocka_unit_test(test_uuids),   cmocka_unit_test(test_unknown), cmocka_unit_test(test_long),
		cmocka_unit_test(test_proc),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
