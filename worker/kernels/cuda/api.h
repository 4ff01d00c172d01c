#pragma once

#include <cstdint>

// What libfinesweep-cuda.so offers: C functions over device pointers. All are asynchronous on `stream` (a
// cudaStream_t of the current device) and return a cudaError_t: 0, or what launching failed with. Nothing is
// allocated.

extern "C" {

/// Raised with every change of what stands below.
inline constexpr int kFinesweepCudaVersion = 2;
int finesweep_cuda_version();
/// The words for an error.
const char* finesweep_cuda_error(int error);

/// fp32, bf16, fp16.
enum FinesweepFloat : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

/// A matrix in NF4 (quantization/nf4.h). Scales: `absmax`, or where that is null absmax[b] =
/// map[codes[b]] · nested_absmax[b / nested_block] + offset, each operation rounded.
struct FinesweepNf4 {
  const std::uint8_t* packed;
  std::int64_t block_size;
  const float* absmax;
  const std::uint8_t* codes;
  const float* nested_absmax;
  const float* map;
  float offset;
  std::int64_t nested_block;
};

/// out[i] = value number begin + i of the flattened matrix, count of them.
int finesweep_nf4_dequantize(const FinesweepNf4* matrix, std::int64_t begin, std::int64_t count, void* out,
                             int type, void* stream);

/// y[t][o] = sum over i of x[t][i] · w[o][i], for few tokens: each weight is read once, as 4 bits. Products and
/// sums are fp32, of weights rounded to `type` as dequantize does.
///
///   x [tokens, in], y [tokens, out], both contiguous of `type`; tokens 1 … 8; in a multiple of 32 and of the block
///   size, which is a multiple of 32. Else cudaErrorInvalidValue.
int finesweep_nf4_product(const FinesweepNf4* matrix, std::int64_t out, std::int64_t in, const void* x,
                          std::int64_t tokens, void* y, int type, void* stream);
}

#include "worker/kernels/cuda/training_api.h"
