#pragma once

#include <cuda_fp8.h>

#include "worker/kernels/cuda/device.cuh"

// How a row becomes FP8 e4m3 (kernels/fp8.h), for the kernels that make rows.

namespace finesweep::cuda {

inline constexpr float kFp8Largest = 448, kFp8Smallest = 0x1p-100f;

/// The larger of `most` and |v|, and NaN once one of them is: fmaxf would forget it.
__device__ inline float larger(float most, float v) {
  const float size = fabsf(v);
  return size > most || isnan(size) ? size : most;
}

/// Over the lanes that share a row, NaN where one has it. `shared` [kWarps] is anybody's.
template <int kWarps>
__device__ inline float row_max(float most, float* shared) {
  const unsigned any = __ballot_sync(0xffffffffu, isnan(most));
  most = any != 0 ? nanf("") : warp_max(most);
  if constexpr (kWarps > 1) {
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    most = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) most = larger(most, shared[w]);
  }
  return most;
}

/// From the largest |v| of a row: what its values are multiplied by, and its scale.
__device__ inline float fp8_inverse(float most) {
  return most < kFp8Smallest ? 0.0f : kFp8Largest / most;
}
__device__ inline float fp8_scale(float most) {
  return most < kFp8Smallest ? 0.0f : most / kFp8Largest;
}

template <int kCount>
__device__ inline void store_fp8(std::uint8_t* to, const float (&v)[kCount], float inverse) {
  if constexpr (kCount == 8) {
    std::uint32_t pairs[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      pairs[p] = __nv_cvt_float2_to_fp8x2(make_float2(v[2 * p] * inverse, v[2 * p + 1] * inverse), __NV_SATFINITE,
                                          __NV_E4M3);
    }
    *reinterpret_cast<uint2*>(to) = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) to[k] = __nv_cvt_float_to_fp8(v[k] * inverse, __NV_SATFINITE, __NV_E4M3);
  }
}

}  // namespace finesweep::cuda
