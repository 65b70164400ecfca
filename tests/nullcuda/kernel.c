/*
 * kernel.c -- kernels do nothing, but their launches are checked: grid and block, the stream's device, and
 * that no pointer among the arguments leads to another device's memory.
 *
 * How large arguments are stands in the kernel's cubin: a module's is unpacked at its first launch, and
 * each .nv.info.NAME has a record (EIATTR_KPARAM_INFO) for every parameter.  8 bytes of an argument that are
 * an address of what is allocated on a device are taken for a pointer: all of an argument of up to 256 bytes,
 * of a larger one the first 8 and the operands of ATen's elementwise kernels.
 */
#include "tests/nullcuda/nullcuda.h"
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { MAGIC = 0x6e636b31, PARAMETERS_MAX = 64, ARCH = 90, TENSOR_INFO = 216 };

struct parameter {
	unsigned short offset, size;
};

struct kernel {
	int magic;
	const void *host;
	const char *name;
	struct module *module;
	struct parameter *parameter;
	int parameters; /* -1: not known */
	uint64_t launches;
	struct kernel *next; /* of its module */
};

struct variable {
	const void *host;
	size_t size;
	void *at[NC_DEVICES];
	struct variable *next;
};

struct module {
	const struct {
		int magic, version;
		const void *data;
		const void *more;
	} * wrapper;
	bool parsed;
	struct kernel *kernels;
};

static struct kernel **table; /* open addressing, by the host function */
static size_t table_size, table_used;
static struct variable *variables;

/* ---- Registration, when libraries are loaded ---- */
static size_t slot_of(const void *host)
{
	size_t i = ((uintptr_t)host >> 4) * 0x9e3779b97f4a7c15u % table_size;

	while (table[i] && table[i]->host != host)
		i = (i + 1) % table_size;
	return i;
}

static void grow(void)
{
	struct kernel **old = table;
	size_t n = table_size;

	table_size = n ? 2 * n : 65536;
	table = calloc(table_size, sizeof *table);
	for (size_t i = 0; i < n; i++)
		if (old[i])
			table[slot_of(old[i]->host)] = old[i];
	free(old);
}

NC_API void **__cudaRegisterFatBinary(void *wrapper);
NC_API void **__cudaRegisterFatBinary(void *wrapper)
{
	struct module *m = calloc(1, sizeof *m);

	m->wrapper = wrapper;
	return (void **)m;
}

NC_API void __cudaRegisterFatBinaryEnd(void **module);
NC_API void __cudaRegisterFatBinaryEnd(void **module)
{
	(void)module;
}

NC_API void __cudaUnregisterFatBinary(void **module);
NC_API void __cudaUnregisterFatBinary(void **module)
{
	(void)module;
}

NC_API char __cudaInitModule(void **module);
NC_API char __cudaInitModule(void **module)
{
	(void)module;
	return 1;
}

NC_API void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int limit,
				   uint3 *tid, uint3 *bid, dim3 *block, dim3 *grid, int *warp);
NC_API void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int limit,
				   uint3 *tid, uint3 *bid, dim3 *block, dim3 *grid, int *warp)
{
	struct module *m = (struct module *)module;
	struct kernel *k = calloc(1, sizeof *k);

	(void)device, (void)limit, (void)tid, (void)bid, (void)block, (void)grid, (void)warp;
	*k = (struct kernel) {
		.magic = MAGIC, .host = host, .name = name, .module = m, .parameters = -1, .next = m->kernels
	};
	m->kernels = k;
	nc_lock();
	if (2 * table_used >= table_size)
		grow();
	size_t i = slot_of(host);
	table_used += !table[i];
	table[i] = k;
	nc_unlock();
}

NC_API void __cudaRegisterVar(void **module, char *host, char *device, const char *name, int ext, size_t size,
			      int constant, int global);
NC_API void __cudaRegisterVar(void **module, char *host, char *device, const char *name, int ext, size_t size,
			      int constant, int global)
{
	struct variable *v = calloc(1, sizeof *v);

	(void)module, (void)device, (void)name, (void)ext, (void)constant, (void)global;
	v->host = host;
	v->size = size;
	nc_lock();
	v->next = variables;
	variables = v;
	nc_unlock();
}

NC_API cudaError_t cudaGetSymbolAddress(void **p, const void *symbol)
{
	struct variable *v = variables;

	while (v && v->host != symbol)
		v = v->next;
	if (!v)
		return nc_return(cudaErrorInvalidSymbol);
	cudaError_t r = v->at[nc_here()] ? cudaSuccess : cudaMalloc(&v->at[nc_here()], v->size);
	*p = v->at[nc_here()];
	return r;
}

NC_API cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t n, size_t offset,
				      enum cudaMemcpyKind kind)
{
	void *p;
	cudaError_t r = cudaGetSymbolAddress(&p, symbol);

	return r ? r : cudaMemcpy((char *)p + offset, from, n, kind);
}

/* ---- Sizes of parameters ---- */
/* One entry of a fatbin, as far as it is used; the header's size includes what newer versions append. */
struct fatbin_entry {
	uint16_t kind, version;
	uint32_t header;
	uint64_t size;
	uint32_t packed, unknown;
	uint16_t minor, major;
	uint32_t arch, name_offset, name_size;
	uint64_t flags, zero, unpacked;
};

enum { FATBIN_MAGIC = (int)0xba55ed50, WRAPPER_MAGIC = 0x466243b1, KIND_CUBIN = 2, PACKED_ZSTD = 0x8000 };
enum { KPARAM_INFO = 0x17, KPARAM_INFO_V2 = 0x45 };

/* The cubin that an H100 would run: of sm_90, or of an older 9.x or 8.x.  The caller frees *unpacked. */
static const char *find_cubin(const char *fatbin, size_t *size, char **unpacked)
{
	const struct fatbin_entry *best = NULL;
	uint16_t header;
	uint64_t total;
	uint32_t magic;

	memcpy(&magic, fatbin, 4);
	if (magic != (uint32_t)FATBIN_MAGIC)
		return NULL;
	memcpy(&header, fatbin + 6, 2);
	memcpy(&total, fatbin + 8, 8);
	for (const char *p = fatbin + header; p < fatbin + header + total;) {
		const struct fatbin_entry *e = (const struct fatbin_entry *)p;
		if (e->kind == KIND_CUBIN && e->arch <= ARCH && (!best || e->arch >= best->arch))
			best = e;
		p += e->header + e->size;
	}
	if (!best)
		return NULL;
	const char *data = (const char *)best + best->header;
	if (!best->packed) {
		*size = best->size;
		return data;
	}
	if (!(best->flags & PACKED_ZSTD) || !(*unpacked = malloc(best->unpacked)))
		return NULL;
	*size = ZSTD_decompress(*unpacked, best->unpacked, data, best->packed);
	return ZSTD_isError(*size) ? NULL : *unpacked;
}

/* The attributes of one kernel: format, attribute, then a value of two bytes or a size and as many bytes. */
static void read_info(struct kernel *k, const unsigned char *p, size_t n)
{
	struct parameter found[PARAMETERS_MAX];
	int count = 0;

	for (size_t i = 0; i + 4 <= n;) {
		uint16_t value;
		memcpy(&value, p + i + 2, 2);
		if (p[i] != 4) {
			i += 4;
			continue;
		}
		if (p[i + 1] == KPARAM_INFO_V2)
			return;
		if (p[i + 1] == KPARAM_INFO && i + 16 <= n) {
			uint16_t ordinal, offset;
			uint32_t packed;
			memcpy(&ordinal, p + i + 8, 2);
			memcpy(&offset, p + i + 10, 2);
			memcpy(&packed, p + i + 12, 4);
			if (ordinal >= PARAMETERS_MAX)
				return;
			found[ordinal] = (struct parameter) { offset, (unsigned short)(packed >> 18) };
			count = count > ordinal + 1 ? count : ordinal + 1;
		}
		i += 4u + value;
	}
	k->parameter = malloc((size_t)(count + 1) * sizeof *k->parameter);
	memcpy(k->parameter, found, (size_t)count * sizeof *found);
	k->parameters = count;
}

static void read_cubin(struct module *m, const char *elf, size_t size)
{
	const Elf64_Ehdr *h = (const Elf64_Ehdr *)elf;

	if (size < sizeof *h || memcmp(elf, ELFMAG, SELFMAG) || h->e_shoff + sizeof(Elf64_Shdr) > size)
		return;
	const Elf64_Shdr *s = (const Elf64_Shdr *)(elf + h->e_shoff);
	size_t n = h->e_shnum ? h->e_shnum : s->sh_size;
	size_t names = h->e_shstrndx == SHN_XINDEX ? s->sh_link : h->e_shstrndx;

	for (size_t i = 0; i < n; i++) {
		const char *name = elf + s[names].sh_offset + s[i].sh_name;
		if (strncmp(name, ".nv.info.", 9))
			continue;
		for (struct kernel *k = m->kernels; k; k = k->next)
			if (k->parameters < 0 && !strcmp(k->name, name + 9)) {
				read_info(k, (const unsigned char *)elf + s[i].sh_offset, s[i].sh_size);
				break;
			}
	}
}

static void parse(struct module *m)
{
	char *unpacked = NULL;
	size_t size;

	if (m->wrapper->magic == WRAPPER_MAGIC) {
		const char *cubin = find_cubin(m->wrapper->data, &size, &unpacked);
		if (cubin)
			read_cubin(m, cubin, size);
	}
	free(unpacked);
	m->parsed = true;
}

/* ---- Launches ---- */
static struct kernel *kernel_of(const void *f)
{
	nc_lock();
	struct kernel *k = table_size ? table[slot_of(f)] : NULL;
	nc_unlock();
	if (!k && ((const struct kernel *)f)->magic == MAGIC)
		k = (struct kernel *)(uintptr_t)f;
	if (!k)
		nc_fail("a kernel was launched that nobody registered");
	return k;
}

static void check_pointer(const struct kernel *k, const char *at, int argument, int here)
{
	void *p;

	memcpy(&p, at, sizeof p);
	int device = nc_device_of(p);
	if (device >= 0 && device != here && nc_allocated(p))
		nc_fail("kernel %s on device %d is given memory of device %d (argument %d)", k->name, here,
			device, argument);
}

/* Where ATen's elementwise kernels keep the addresses of their operands: behind an OffsetCalculator, which
 * has 4 bytes, 12 for each of 25 dimensions, and 4 for each dimension and operand. */
static size_t operands_of(size_t size, size_t *n)
{
	size_t at = 0;

	*n = 0;
	for (size_t k = 1; k < 9; k++) {
		size_t behind = (4 + 25 * 12 + 25 * 4 * k + 7) / 8 * 8;
		if (behind + 8 * k <= size) {
			at = behind;
			*n = k;
		}
	}
	return at;
}

/* Arrays in large structs are filled as far as they are used, and what lies behind may look like a pointer.
 */
static void check_argument(const struct kernel *k, const char *value, int argument, int here)
{
	size_t size = k->parameter[argument].size, n = 0, at = 0;
	size_t whole = size <= 256 && size != TENSOR_INFO ? size / 8 : 1;

	for (size_t i = 0; i < whole && size >= 8; i++)
		check_pointer(k, value + 8 * i, argument, here);
	if (size > 256 && strstr(k->name, "elementwise_kernel"))
		at = operands_of(size, &n);
	for (size_t i = 0; i < n; i++)
		check_pointer(k, value + at + 8 * i, argument, here);
}

static void check_arguments(struct kernel *k, void **args, int here)
{
	nc_lock();
	if (!k->module->parsed)
		parse(k->module);
	nc_unlock();
	nc_count(k->parameters < 0 ? NC_UNCHECKED : NC_CHECKED);
	for (int i = 0; i < k->parameters; i++)
		check_argument(k, args[i], i, here);
}

static void check_shape(const struct kernel *k, dim3 grid, dim3 block)
{
	bool bad_grid =
	    !grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535;
	bool bad_block = !block.x || !block.y || !block.z || block.x > 1024 || block.y > 1024 ||
			 block.z > 64 || (uint64_t)block.x * block.y * block.z > 1024;

	if (bad_grid || bad_block)
		nc_fail(
		    "kernel %s: a grid of (%u, %u, %u) blocks of (%u, %u, %u) threads is refused by a GPU",
		    k->name, grid.x, grid.y, grid.z, block.x, block.y, block.z);
}

static cudaError_t launch(const void *f, dim3 grid, dim3 block, void **args, size_t shared,
			  cudaStream_t stream)
{
	struct kernel *k = kernel_of(f);
	struct nc_stream *s = nc_stream_of(stream);
	int here = nc_here();

	check_shape(k, grid, block);
	if (shared > 232448)
		nc_fail("kernel %s: %zu bytes of shared memory, a GPU has 232448", k->name, shared);
	if (s->device != here)
		nc_fail("kernel %s: its stream is of device %d, the thread's device is %d", k->name,
			s->device, here);
	check_arguments(k, args, here);
	nc_count_device(here, NC_LAUNCHES);
	nc_note_pair(NC_SET_LAUNCH_STREAMS, s, NULL);
	__atomic_add_fetch(&k->launches, 1, __ATOMIC_RELAXED);
	return nc_work(k->name, stream);
}

NC_API cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared,
				    cudaStream_t stream)
{
	return launch(f, grid, block, args, shared, stream);
}

NC_API cudaError_t cudaLaunchCooperativeKernel(const void *f, dim3 grid, dim3 block, void **args,
					       size_t shared, cudaStream_t stream)
{
	return launch(f, grid, block, args, shared, stream);
}

NC_API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **args)
{
	return launch(f, c->gridDim, c->blockDim, args, c->dynamicSmemBytes, c->stream);
}

NC_API cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f);
NC_API cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f)
{
	*k = (cudaKernel_t)kernel_of(f);
	return cudaSuccess;
}

NC_API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 grid, dim3 block, void **args, size_t shared,
				      cudaStream_t stream);
NC_API cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 grid, dim3 block, void **args, size_t shared,
				      cudaStream_t stream)
{
	return launch(k, grid, block, args, shared, stream);
}

/* What <<<>>> leaves for the function that stands for the kernel. */
static __thread struct {
	dim3 grid, block;
	size_t shared;
	cudaStream_t stream;
} pushed;

NC_API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream);
NC_API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream)
{
	pushed.grid = grid;
	pushed.block = block;
	pushed.shared = shared;
	pushed.stream = stream;
	return 0;
}

NC_API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream);
NC_API cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
	*grid = pushed.grid;
	*block = pushed.block;
	*shared = pushed.shared;
	*(cudaStream_t *)stream = pushed.stream;
	return cudaSuccess;
}

/* ---- What is known of a kernel ---- */
NC_API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	kernel_of(f);
	memset(a, 0, sizeof *a);
	a->maxThreadsPerBlock = 1024;
	a->numRegs = 32;
	a->ptxVersion = a->binaryVersion = ARCH;
	a->maxDynamicSharedSizeBytes = 232448;
	return cudaSuccess;
}

NC_API cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute attribute, int value)
{
	kernel_of(f);
	if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > 232448)
		return nc_return(cudaErrorInvalidValue);
	return cudaSuccess;
}

NC_API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f,
									  int threads, size_t shared,
									  unsigned flags)
{
	(void)shared, (void)flags;
	kernel_of(f);
	*blocks = threads > 0 && threads <= 1024 ? 2048 / threads : 0;
	*blocks = *blocks > 32 ? 32 : *blocks;
	return cudaSuccess;
}

NC_API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *f, int threads,
								 size_t shared)
{
	return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, threads, shared, 0);
}

/* NULLCUDA_COUNT=1: how often each kernel was launched, by its mangled name. */
void nc_log_kernels(FILE *f)
{
	const char *count = getenv("NULLCUDA_COUNT"), *comma = "";

	if (!count || strcmp(count, "1"))
		return;
	fputs(",\n\t\"kernels\": {", f);
	for (size_t i = 0; i < table_size; i++)
		if (table[i] && table[i]->launches) {
			fprintf(f, "%s\n\t\t\"%s %zx\": %llu", comma, table[i]->name, i,
				(unsigned long long)table[i]->launches);
			comma = ",";
		}
	fputc('}', f);
}
