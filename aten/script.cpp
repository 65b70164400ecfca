// script.cpp -- see script.h.
#include "aten/script.h"
#include "aten/shim.hpp"
#include <ATen/core/ivalue.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <memory>
#include <string>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <vector>

struct at_script {
	std::unique_ptr<torch::jit::Module> module;
	std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
	at::Device device { at::kCPU };
	std::string path;
};

namespace
{
// libtorch's messages go on with a C++ backtrace; the first line that says something is enough.
int say(struct err *e, const std::string &path, const char *what)
{
	const char *line = strstr(what, "RuntimeError: "); // of the script, below its own traceback

	line = line ? line + strlen("RuntimeError: ") : what;
	while (*line == '\n')
		line++;
	return err_set(e, "%s: %.*s", path.c_str(), static_cast<int>(strcspn(line, "\n")), line);
}

// A package is a library that needs libtorch.so, an empty one that stands for all its parts; this program is
// linked with the parts. It is beside them, where the loader does not look for others.
void load_libtorch()
{
	Dl_info here;

	if (!dladdr(reinterpret_cast<void *>(&torch::jit::setGraphExecutorOptimize), &here))
		return;
	std::string path = here.dli_fname;
	path = path.substr(0, path.rfind('/') + 1) + "libtorch.so";
	dlopen(path.c_str(),
	       RTLD_NOW | RTLD_GLOBAL); // if that fails, loading the package says what is missing
}

void collect(std::vector<at::Tensor> &out, const c10::IValue &v)
{
	if (v.isTensor())
		out.push_back(v.toTensor());
	else if (v.isTuple())
		for (const auto &x : v.toTupleRef().elements())
			collect(out, x);
	else if (v.isList())
		for (const auto &x : v.toListRef())
			collect(out, x);
}

std::vector<at::Tensor> forward(at_script &s, int n, const at_t *in)
{
	const at::NoGradGuard quiet;
	std::vector<at::Tensor> out;

	if (s.package) {
		std::vector<at::Tensor> args;
		for (int i = 0; i < n; i++)
			args.push_back(in[i]->v);
		return s.package->run(args);
	}
	std::vector<c10::IValue> args;
	for (int i = 0; i < n; i++)
		args.emplace_back(in[i]->v);
	collect(out, s.module->forward(args));
	return out;
}

int run(at_script &s, int n, const at_t *in, std::vector<at::Tensor> &out, err *e)
{
	try {
		out = forward(s, n, in);
	} catch (const std::exception &x) {
		return say(e, s.path, x.what());
	}
	if (out.empty())
		return err_set(e, "%s: it returns no tensor", s.path.c_str());
	return 0;
}
} // namespace

extern "C" {
int at_script_check(const char *path, struct err *e)
{
	static const char zip[] = { 'P', 'K', 3, 4 }; // both kinds are archives
	char first[sizeof zip] = {};
	FILE *f = fopen(path, "rb");
	size_t n = f ? fread(first, 1, sizeof first, f) : 0;

	if (!f)
		return err_set(e, "cannot open %s: %s", path, strerror(errno));
	fclose(f);
	return n == sizeof first && !memcmp(first, zip, sizeof zip)
		   ? 0
		   : err_set(e, "%s: neither TorchScript nor an AOTInductor package", path);
}

int at_script_open(struct at_script **out, const char *path, enum at_device dev, struct err *e)
{
	auto s = std::make_unique<at_script>();
	const size_t n = strlen(path);

	s->path = path;
	s->device = dev == AT_CUDA ? at::Device(at::kCUDA, at::detail::getCUDAHooks().getCurrentDevice())
				   : at::Device(at::kCPU);
	try {
		if (n > 4 && !strcmp(path + n - 4, ".pt2")) {
			load_libtorch();
			s->package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
		} else {
			s->module = std::make_unique<torch::jit::Module>(torch::jit::load(path, s->device));
			s->module->eval();
		}
	} catch (const std::exception &x) {
		return say(e, s->path, x.what());
	}
	*out = s.release();
	return 0;
}

void at_script_close(struct at_script *s)
{
	delete s;
}

int at_script_run(struct at_script *s, int n, const at_t *in, at_t *out, struct err *e)
{
	std::vector<at::Tensor> all;

	if (run(*s, n, in, all, e))
		return -1;
	*out = shim::call("at_script_run", {}, [&] { return all[0]; });
	return 0;
}

int at_script_run_all(struct at_script *s, int n, const at_t *in, at_t *out, int max, int *count,
		      struct err *e)
{
	std::vector<at::Tensor> all;

	if (run(*s, n, in, all, e))
		return -1;
	*count = static_cast<int>(all.size());
	if (*count > max)
		return err_set(e, "%s: it returns %d tensors, at most %d are wanted", s->path.c_str(), *count,
			       max);
	for (int i = 0; i < *count; i++)
		out[i] = shim::call("at_script_run_all", {}, [&] { return all[i]; });
	return 0;
}
}
