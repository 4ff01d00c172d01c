#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "worker/kernels/cuda/api.h"
#include "worker/kernels/cuda/launch.cuh"

// What the kernels for decoding share. They are small and follow one another at once, so each may begin while the
// one before it still runs (programmatic dependent launch): up to wait_for_predecessor() a kernel reads only what
// no kernel of the step writes, weights above all, and each calls it in every thread before it writes or ends.

namespace finesweep_decode {

using finesweep::cuda::device_facts;
using finesweep::cuda::launch;
using finesweep::cuda::let_successor_begin;
using finesweep::cuda::shared_memory_limit;
using finesweep::cuda::wait_for_predecessor;

/// Values of T in 16 bytes.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

__device__ inline float to_float(float v) {
  return v;
}
__device__ inline float to_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}
__device__ inline float to_float(__half v) {
  return __half2float(v);
}
template <typename T>
__device__ inline T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half_rn(v);
}

/// 16 bytes to fp32 and back.
template <typename T>
__device__ inline void unpack(const uint4& bits, float (&values)[kVector<T>]) {
  const T* from = reinterpret_cast<const T*>(&bits);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = to_float(from[i]);
}
template <typename T>
__device__ inline uint4 pack(const float (&values)[kVector<T>]) {
  uint4 bits;
  T* to = reinterpret_cast<T*>(&bits);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) to[i] = from_float<T>(values[i]);
  return bits;
}

/// Of a weight, which is read once: leaves the first cache to others.
__device__ inline uint4 load_weight(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

__device__ inline void copy_to_shared(void* to, const void* from) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ inline void finish_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

/// c += a b of 16 × 16 and 16 × 8 values, as mma.m16n8k16 lays them over the lanes.
__device__ inline void multiply(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                std::uint32_t a3, std::uint32_t b0, std::uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
      "%2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float (&c)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                                std::uint32_t a3, std::uint32_t b0, std::uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
      "%2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ inline float activate(float z, int activation) {
  switch (activation) {
    case kActivationGelu:
      return 0.5f * z * (1.0f + erff(z * 0.70710678118654752f));
    case kActivationGeluTanh: {
      const float inner = 0.79788456080286536f * (z + 0.044715f * z * z * z);
      return 0.5f * z * (1.0f + tanhf(inner));
    }
    case kActivationRelu:
      return fmaxf(z, 0.0f);
    case kActivationTanh:
      return tanhf(z);
    case kActivationSilu:
      return z / (1.0f + expf(-z));
  }
  return z;
}

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Calls work(T()) for the storage type.
template <typename Work>
int with_type(int type, const Work& work) {
  switch (type) {
    case kFinesweepFloat32:
      return work(float());
    case kFinesweepBFloat16:
      return work(__nv_bfloat16());
    case kFinesweepFloat16:
      return work(__half());
  }
  return cudaErrorInvalidValue;
}

}  // namespace finesweep_decode
