#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "worker/kernels/cuda/api.h"

namespace {

__device__ constexpr float kLevels[16] = {-1.0f,
                                          -0.6961928009986877f,
                                          -0.5250730514526367f,
                                          -0.39491748809814453f,
                                          -0.28444138169288635f,
                                          -0.18477343022823334f,
                                          -0.09105003625154495f,
                                          0.0f,
                                          0.07958029955625534f,
                                          0.16093020141124725f,
                                          0.24611230194568634f,
                                          0.33791524171829224f,
                                          0.44070982933044434f,
                                          0.5626170039176941f,
                                          0.7229568362236023f,
                                          1.0f};

constexpr int kThreads = 256;

__device__ inline float from(float v) {
  return v;
}
__device__ inline float from(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
__device__ inline float from(__half v) {
  return __half2float(v);
}
template <typename T>
__device__ inline T to(float v);
template <>
__device__ inline float to<float>(float v) {
  return v;
}
template <>
__device__ inline __nv_bfloat16 to<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half to<__half>(float v) {
  return __float2half_rn(v);
}

__device__ inline float scale_of(const FinesweepNf4& m, std::int64_t block) {
  if (m.absmax != nullptr) return m.absmax[block];
  // As the reference rounds: a product, then a sum.
  return __fadd_rn(__fmul_rn(m.map[m.codes[block]], m.nested_absmax[block / m.nested_block]), m.offset);
}

__device__ inline float level_of(const FinesweepNf4& m, const float* levels, std::int64_t value) {
  const std::uint8_t byte = m.packed[value >> 1];
  return levels[(value & 1) != 0 ? byte & 15 : byte >> 4];
}

/// A block of values of a pass: 32 a thread where everything is aligned, else one after the other. Memory-bound:
/// 0.5 bytes read and sizeof(T) written a value.
template <typename T>
__global__ void dequantize(FinesweepNf4 m, std::int64_t begin, std::int64_t count, T* out, bool aligned) {
  __shared__ float levels[16];
  if (threadIdx.x < 16) levels[threadIdx.x] = kLevels[threadIdx.x];
  __syncthreads();
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 32;
  if (first >= count) return;
  if (aligned && first + 32 <= count) {
    // 32 values of one block: 16 bytes in, 32 × sizeof(T) out, 16 bytes a store.
    const std::int64_t value = begin + first;
    const float scale = scale_of(m, value / m.block_size);
    const uint4 codes = *reinterpret_cast<const uint4*>(m.packed + (value >> 1));
    const std::uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    alignas(16) T values[32];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        const std::uint32_t byte = words[w] >> (8 * b) & 255;
        values[w * 8 + b * 2] = to<T>(levels[byte >> 4] * scale);
        values[w * 8 + b * 2 + 1] = to<T>(levels[byte & 15] * scale);
      }
    }
    const uint4* pieces = reinterpret_cast<const uint4*>(values);
    uint4* target = reinterpret_cast<uint4*>(out + first);
#pragma unroll
    for (int i = 0; i < static_cast<int>(32 * sizeof(T) / 16); ++i) target[i] = pieces[i];
    return;
  }
  for (std::int64_t i = first; i < min(first + 32, count); ++i) {
    const std::int64_t value = begin + i;
    out[i] = to<T>(level_of(m, levels, value) * scale_of(m, value / m.block_size));
  }
}

/// One warp computes one output for all tokens: lanes take 32 values each in turn (16 bytes of codes, one scale), x
/// comes from the cache. Bound by reading the codes: half a byte a weight.
template <typename T, int kTokens>
__global__ void product(FinesweepNf4 m, std::int64_t out, std::int64_t in, const T* x, T* y) {
  __shared__ float levels[16];
  if (threadIdx.x < 16) levels[threadIdx.x] = kLevels[threadIdx.x];
  __syncthreads();
  const int lane = threadIdx.x % 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= out) return;
  float sums[kTokens] = {};
  for (std::int64_t i = lane * 32; i < in; i += 32 * 32) {
    const std::int64_t value = row * in + i;
    const float scale = scale_of(m, value / m.block_size);
    const uint4 codes = *reinterpret_cast<const uint4*>(m.packed + (value >> 1));
    const std::uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float weights[8];
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        const std::uint32_t byte = words[w] >> (8 * b) & 255;
        weights[2 * b] = from(to<T>(levels[byte >> 4] * scale));
        weights[2 * b + 1] = from(to<T>(levels[byte & 15] * scale));
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        alignas(16) T values[8];
        const uint4* source = reinterpret_cast<const uint4*>(x + t * in + i + w * 8);
#pragma unroll
        for (int p = 0; p < static_cast<int>(8 * sizeof(T) / 16); ++p)
          reinterpret_cast<uint4*>(values)[p] = source[p];
#pragma unroll
        for (int k = 0; k < 8; ++k) sums[t] += weights[k] * from(values[k]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sums[t] += __shfl_xor_sync(0xffffffff, sums[t], step);
    if (lane == 0) y[t * out + row] = to<T>(sums[t]);
  }
}

template <typename T>
int launch_dequantize(const FinesweepNf4& m, std::int64_t begin, std::int64_t count, void* out,
                      cudaStream_t stream) {
  const bool aligned = begin % 32 == 0 && m.block_size % 32 == 0 &&
                       reinterpret_cast<std::uintptr_t>(out) % 16 == 0 &&
                       reinterpret_cast<std::uintptr_t>(m.packed) % 16 == 0;
  const std::int64_t threads = (count + 31) / 32, blocks = (threads + kThreads - 1) / kThreads;
  dequantize<T>
      <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(m, begin, count, static_cast<T*>(out), aligned);
  return cudaGetLastError();
}

template <typename T, int kTokens>
int launch_product(const FinesweepNf4& m, std::int64_t out, std::int64_t in, const void* x, std::int64_t tokens,
                   void* y, cudaStream_t stream) {
  if (tokens != kTokens) {
    if constexpr (kTokens > 1) {
      return launch_product<T, kTokens - 1>(m, out, in, x, tokens, y, stream);
    } else {
      return cudaErrorInvalidValue;
    }
  }
  constexpr int rows = kThreads / 32;
  product<T, kTokens><<<static_cast<unsigned>((out + rows - 1) / rows), kThreads, 0, stream>>>(
      m, out, in, static_cast<const T*>(x), static_cast<T*>(y));
  return cudaGetLastError();
}

}  // namespace

extern "C" {

int finesweep_cuda_version() {
  return kFinesweepCudaVersion;
}

const char* finesweep_cuda_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

int finesweep_nf4_dequantize(const FinesweepNf4* matrix, std::int64_t begin, std::int64_t count, void* out,
                             int type, void* stream) {
  if (count == 0) return cudaSuccess;
  const auto on = static_cast<cudaStream_t>(stream);
  switch (type) {
    case kFinesweepFloat32:
      return launch_dequantize<float>(*matrix, begin, count, out, on);
    case kFinesweepBFloat16:
      return launch_dequantize<__nv_bfloat16>(*matrix, begin, count, out, on);
    case kFinesweepFloat16:
      return launch_dequantize<__half>(*matrix, begin, count, out, on);
  }
  return cudaErrorInvalidValue;
}

int finesweep_nf4_product(const FinesweepNf4* matrix, std::int64_t out, std::int64_t in, const void* x,
                          std::int64_t tokens, void* y, int type, void* stream) {
  if (tokens < 1 || tokens > 8 || in % 32 != 0 || matrix->block_size % 32 != 0 || in % matrix->block_size != 0) {
    return cudaErrorInvalidValue;
  }
  const auto on = static_cast<cudaStream_t>(stream);
  switch (type) {
    case kFinesweepFloat32:
      return launch_product<float, 8>(*matrix, out, in, x, tokens, y, on);
    case kFinesweepBFloat16:
      return launch_product<__nv_bfloat16, 8>(*matrix, out, in, x, tokens, y, on);
    case kFinesweepFloat16:
      return launch_product<__half, 8>(*matrix, out, in, x, tokens, y, on);
  }
  return cudaErrorInvalidValue;
}
}
