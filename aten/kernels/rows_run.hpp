// rows_run.hpp -- runs the fused kernels where a tensor is: each fills what its args point to.
#pragma once
#include "aten/kernels/rows.hpp"
#include <ATen/core/Tensor.h>

namespace rows
{
storage storage_of(const at::Tensor &x);
bool can_run(const at::Tensor &x); // float32, bfloat16 or float16, on a device with kernels
bool on_gpu(const at::Tensor &x);  // whose kernels are the GPU's
bool packs(
    const at::Tensor &x); // its rows can be read ACCESS bytes at a time, where that is how they are read

// `like` says where, and what T is.
void modulate(const at::Tensor &like, const modulate_args &m);
void modulate_back(const at::Tensor &like, const modulate_args &m);
void rms(const at::Tensor &like, const rms_args &r);
void rms_back(const at::Tensor &like, const rms_args &r);
// The weight's gradient, on the CPU alone: adds the part of each piece of rows to its row of gw (pieces, K).
int64_t rms_pieces(const rms_args &r);
void rms_weight_back(const at::Tensor &like, const rms_args &r, float *gw);
void x0(const at::Tensor &like, const x0_args &x);
void x0_back(const at::Tensor &like, const x0_args &x);
void adamw(const at::Tensor &like, const adamw_args &a);

// On a GPU alone.
void gate(const at::Tensor &like, const gate_args &a);
void quantise(const at::Tensor &like, const quantise_args &a);
bool has_qkv(const at::Tensor &like, int64_t B, int64_t K); // for so many samples, and heads of that width
void qkv(const at::Tensor &like, const qkv_args &a);
void qkv_back(const at::Tensor &like, const qkv_args &a);
bool has_gate_modulate(const at::Tensor &like, int64_t B, int64_t D);
void gate_modulate(const at::Tensor &like, const gate_modulate_args &a);
void gate_modulate_back(const at::Tensor &like, const gate_modulate_args &a);
} // namespace rows
