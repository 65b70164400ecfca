/* state.c -- the environment, threads, and the log. */
#include "tests/nullcuda/nullcuda.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const device_counters[NC_DEVICE_COUNTERS] = {
	[NC_LAUNCHES] = "launches", [NC_ALLOCATIONS] = "allocations",
	[NC_COPIES] = "copies",     [NC_SETS] = "sets",
	[NC_BLAS] = "blas",         [NC_DNN] = "dnn",
};
static const char *const counters[NC_COUNTERS] = {
	[NC_HOST_SYNCS] = "host_syncs",
	[NC_CAPTURES_BEGUN] = "captures_begun",
	[NC_CAPTURES_ENDED] = "captures_ended",
	[NC_CAPTURES_INVALIDATED] = "captures_invalidated",
	[NC_CAPTURED_LAUNCHES] = "captured_launches",
	[NC_ESCAPES] = "escaped_launches",
	[NC_GRAPH_LAUNCHES] = "graph_launches",
	[NC_ALLOCATIONS_FAILED] = "allocations_failed",
	[NC_CHECKED] = "launches_checked",
	[NC_UNCHECKED] = "launches_unchecked",
};
static const char *const sets[NC_SETS_OF_PAIRS] = {
	[NC_SET_WORKSPACES] = "workspaces",
	[NC_SET_CAPTURE_STREAMS] = "capture_streams",
	[NC_SET_LAUNCH_STREAMS] = "launch_streams",
};

enum { PAIRS = 4096, CALLS = 32 };

static struct {
	int visible, physical[NC_DEVICES];
	size_t memory;
	int break_capture, break_at;
	bool bytes_are_true, used, context[NC_DEVICES];
	int threads;
	char thread_name[NC_THREADS][32];
	uint64_t device[NC_THREADS][NC_DEVICES][NC_DEVICE_COUNTERS];
	uint64_t count[NC_COUNTERS];
	int64_t bytes[NC_DEVICES], peak[NC_DEVICES];
	struct {
		const void *a, *b;
	} pair[NC_SETS_OF_PAIRS][PAIRS];
	int pairs[NC_SETS_OF_PAIRS];
	struct {
		const char *name;
		uint64_t n;
	} illegal[CALLS];
} state;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread int thread_index = -1, thread_device;
static __thread cudaError_t last_error;

void nc_lock(void)
{
	pthread_mutex_lock(&mutex);
}

void nc_unlock(void)
{
	pthread_mutex_unlock(&mutex);
}

void nc_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("nullcuda: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	abort();
}

void nc_missing(const char *function)
{
	nc_fail("%s is not implemented", function);
}

/* ---- The environment ---- */
static long number(const char *name, long otherwise, long least, long most)
{
	const char *text = getenv(name);
	char *end;

	if (!text || !*text)
		return otherwise;
	long v = strtol(text, &end, 10);
	if (*end || v < least || v > most)
		nc_fail("%s=%s: expected a number from %ld to %ld", name, text, least, most);
	return v;
}

int nc_machine_devices(void)
{
	return (int)number("NULLCUDA_DEVICES", 1, 0, NC_DEVICES);
}

/* One entry of CUDA_VISIBLE_DEVICES: an index, or the beginning of a UUID. */
static int find_device(const char *entry, size_t n, int devices)
{
	char uuid[48], *end;

	if (n > 4 && !strncmp(entry, "GPU-", 4)) {
		for (int i = 0; i < devices; i++) {
			nc_uuid_text(i, uuid);
			if (!strncmp(uuid, entry, n))
				return i;
		}
		return -1;
	}
	long v = strtol(entry, &end, 10);
	return end == entry + n && n && v >= 0 && v < devices ? (int)v : -1;
}

/* As CUDA does: what follows an entry that names no device is not looked at. */
static void choose_devices(void)
{
	int devices = nc_machine_devices();
	const char *list = getenv("CUDA_VISIBLE_DEVICES");

	if (!list)
		for (int i = 0; i < devices; i++)
			state.physical[state.visible++] = i;
	while (list && *list && state.visible < NC_DEVICES) {
		size_t n = strcspn(list, ",");
		int device = find_device(list, n, devices);
		if (device < 0)
			break;
		state.physical[state.visible++] = device;
		list += n;
		list += *list == ',';
	}
}

/* ---- The log ---- */
static void write_threads(FILE *f, int d)
{
	const char *comma = "";

	fputs("\"threads\": {", f);
	for (int t = 0; t < state.threads; t++) {
		uint64_t any = 0;
		for (int c = 0; c < NC_DEVICE_COUNTERS; c++)
			any |= state.device[t][d][c];
		if (!any)
			continue;
		fprintf(f, "%s\"%d %s\": {", comma, t, state.thread_name[t]);
		for (int c = 0; c < NC_DEVICE_COUNTERS; c++)
			fprintf(f, "%s\"%s\": %llu", c ? ", " : "", device_counters[c],
				(unsigned long long)state.device[t][d][c]);
		fputc('}', f);
		comma = ", ";
	}
	fputc('}', f);
}

static void write_devices(FILE *f)
{
	const char *comma = "";

	fputs("\"devices\": {", f);
	for (int d = 0; d < NC_DEVICES; d++) {
		uint64_t sum[NC_DEVICE_COUNTERS] = { 0 }, any = 0;
		for (int t = 0; t < state.threads; t++)
			for (int c = 0; c < NC_DEVICE_COUNTERS; c++)
				any |= sum[c] += state.device[t][d][c];
		if (!any)
			continue;
		fprintf(f, "%s\n\t\t\"%d\": {", comma, d);
		for (int c = 0; c < NC_DEVICE_COUNTERS; c++)
			fprintf(f, "\"%s\": %llu, ", device_counters[c], (unsigned long long)sum[c]);
		fprintf(f, "\"bytes\": %lld, \"peak\": %lld, ", (long long)state.bytes[d],
			(long long)state.peak[d]);
		write_threads(f, d);
		fputc('}', f);
		comma = ",";
	}
	fputc('}', f);
}

static void write_log(void)
{
	const char *prefix = getenv("NULLCUDA_LOG");
	static bool written;
	char path[4096];
	FILE *f;

	if (!prefix || !*prefix || !state.used || __atomic_exchange_n(&written, true, __ATOMIC_SEQ_CST))
		return;
	snprintf(path, sizeof path, "%s.%d", prefix, (int)getpid());
	if (!(f = fopen(path, "w"))) {
		perror(path);
		return;
	}
	nc_lock();
	fprintf(f, "{\n\t\"pid\": %d,\n\t\"visible\": [", (int)getpid());
	for (int i = 0; i < state.visible; i++)
		fprintf(f, "%s%d", i ? ", " : "", state.physical[i]);
	fputs("],\n\t\"contexts\": [", f);
	for (int i = 0, any = 0; i < NC_DEVICES; i++)
		if (state.context[i])
			fprintf(f, "%s%d", any++ ? ", " : "", i);
	fputs("],\n\t", f);
	write_devices(f);
	for (int c = 0; c < NC_COUNTERS; c++)
		fprintf(f, ",\n\t\"%s\": %llu", counters[c], (unsigned long long)state.count[c]);
	for (int s = 0; s < NC_SETS_OF_PAIRS; s++)
		fprintf(f, ",\n\t\"%s\": %d", sets[s], state.pairs[s]);
	fputs(",\n\t\"illegal_calls\": {", f);
	for (int i = 0; i < CALLS && state.illegal[i].name; i++)
		fprintf(f, "%s\"%s\": %llu", i ? ", " : "", state.illegal[i].name,
			(unsigned long long)state.illegal[i].n);
	fputc('}', f);
	nc_unlock();
	nc_log_kernels(f);
	fputs("\n}\n", f);
	fclose(f);
}

/* After what libtorch registers for the end of the program, which still calls CUDA. */
__attribute__((destructor)) static void at_end(void)
{
	write_log();
}

/* NULLCUDA_BREAK_CAPTURE=CAPTURE[:OPERATION] */
static void read_break(void)
{
	const char *text = getenv("NULLCUDA_BREAK_CAPTURE");

	state.break_at = 8;
	if (text && *text && sscanf(text, "%d:%d", &state.break_capture, &state.break_at) < 1)
		nc_fail("NULLCUDA_BREAK_CAPTURE=%s: expected CAPTURE[:OPERATION]", text);
}

static void init(void)
{
	choose_devices();
	state.memory = (size_t)number("NULLCUDA_MEMORY", 85017493504, 1 << 20, INT64_MAX);
	read_break();
	state.bytes_are_true = number("NULLCUDA_TRUE", 1, 0, 1);
	state.used = true;
	at_quick_exit(write_log);
}

void nc_init(void)
{
	pthread_once(&once, init);
}

/* ---- Devices and threads ---- */
int nc_visible(void)
{
	nc_init();
	return state.visible;
}

int nc_physical(int device)
{
	nc_init();
	if (device < 0 || device >= state.visible)
		nc_fail("device %d of %d", device, state.visible);
	return state.physical[device];
}

int nc_logical(int physical)
{
	for (int i = 0; i < state.visible; i++)
		if (state.physical[i] == physical)
			return i;
	return -1;
}

int nc_device(void)
{
	return thread_device;
}

void nc_set_device(int device)
{
	thread_device = device;
}

int nc_here(void)
{
	int p = nc_physical(thread_device);

	state.context[p] = true;
	return p;
}

bool nc_has_context(int physical)
{
	return state.context[physical];
}

int nc_thread(void)
{
	if (thread_index < 0) {
		char name[24] = "";
		pthread_getname_np(pthread_self(), name, sizeof name);
		nc_lock();
		thread_index = state.threads < NC_THREADS - 1 ? state.threads++ : NC_THREADS - 1;
		snprintf(state.thread_name[thread_index], sizeof *state.thread_name, "%s",
			 gettid() == getpid() ? "main" : name);
		nc_unlock();
	}
	return thread_index;
}

/* ---- Counting ---- */
void nc_count_device(int physical, enum nc_device_counter c)
{
	__atomic_add_fetch(&state.device[nc_thread()][physical][c], 1, __ATOMIC_RELAXED);
}

void nc_count(enum nc_counter c)
{
	__atomic_add_fetch(&state.count[c], 1, __ATOMIC_RELAXED);
}

/* Under the lock. */
void nc_count_illegal(const char *call)
{
	for (int i = 0; i < CALLS; i++) {
		if (!state.illegal[i].name)
			state.illegal[i].name = call;
		if (strcmp(state.illegal[i].name, call))
			continue;
		state.illegal[i].n++;
		return;
	}
	nc_fail("more than %d calls are illegal in captures", CALLS);
}

void nc_note_pair(enum nc_set set, const void *a, const void *b)
{
	nc_lock();
	int n = state.pairs[set], i = 0;
	while (i < n && (state.pair[set][i].a != a || state.pair[set][i].b != b))
		i++;
	if (i == n && n < PAIRS) {
		state.pair[set][n].a = a;
		state.pair[set][n].b = b;
		state.pairs[set]++;
	}
	nc_unlock();
}

void nc_note_bytes(int physical, int64_t bytes, int64_t peak)
{
	state.bytes[physical] = bytes;
	state.peak[physical] = peak;
}

size_t nc_memory_limit(void)
{
	nc_init();
	return state.memory;
}

bool nc_breaks(unsigned long long capture, size_t operation)
{
	return capture == (unsigned long long)state.break_capture && operation == (size_t)state.break_at;
}

bool nc_bytes_are_true(void)
{
	return state.bytes_are_true;
}

/* ---- Errors ---- */
cudaError_t nc_return(cudaError_t r)
{
	if (r != cudaSuccess && r != cudaErrorNotReady)
		last_error = r;
	return r;
}

NC_API cudaError_t cudaPeekAtLastError(void)
{
	return last_error;
}

NC_API cudaError_t cudaGetLastError(void)
{
	cudaError_t r = last_error;

	last_error = cudaSuccess;
	return r;
}
