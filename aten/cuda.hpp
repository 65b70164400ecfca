// cuda.hpp -- what the other files here ask of the GPU; only in builds with CUDA.
#pragma once
#include <string>

namespace cuda
{
std::string describe(); // at_device_text's
int generation();       // the major number of its compute capability: 9 is Hopper
} // namespace cuda
