#include <cuda_fp8.h>

#include "worker/kernels/cuda/device.cuh"

// Rows of bf16 to FP8 e4m3 with a scale a row, and scales behind a product that has none. A row is kept in
// registers by one warp (narrow rows, four a block) or by eight, so that it is read once; wider ones are read
// twice.

namespace finesweep::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kRowsOfBlock = 4;  // where a warp does a row
constexpr float kLargest = 448, kSmallest = 0x1p-100f;

struct QuantizeArguments {
  const Bf16* x;
  std::int64_t stride, rows, columns;
  const float* factors;
  std::uint8_t* codes;
  float* scales;
};

/// kCount values of v = x · factors from `column` on; 0 behind the row's end.
template <int kCount>
__device__ inline void load_values(const QuantizeArguments& a, const Bf16* x, std::int64_t column,
                                   float (&v)[kCount]) {
  if (column >= a.columns) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] = 0;
    return;
  }
  load<kCount>(x + column, v);
  if (a.factors == nullptr) return;
#pragma unroll
  for (int k = 0; k < kCount; ++k) v[k] *= a.factors[column + k];
}

/// The larger of `most` and |v|, and NaN once one of them is: fmaxf would forget it.
__device__ inline float larger(float most, float v) {
  const float size = fabsf(v);
  return size > most || isnan(size) ? size : most;
}

template <int kCount>
__device__ inline void store_codes(std::uint8_t* to, const float (&v)[kCount], float inverse) {
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

__device__ inline float inverse_of(float most) {
  return most < kSmallest ? 0.0f : kLargest / most;
}
__device__ inline float scale_of(float most) {
  return most < kSmallest ? 0.0f : most / kLargest;
}

/// Over the lanes that share a row, NaN where one has it.
template <int kWarps>
__device__ inline float row_max(float most, float* shared) {
  const unsigned any = __ballot_sync(0xffffffffu, isnan(most));
  most = any != 0 ? nanf("") : warp_max(most);
  if constexpr (kWarps == 1) return most;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  float of_row = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) of_row = larger(of_row, shared[w]);
  return of_row;
}

/// kCount elements a vector, kVectors of them a thread (0: rows of any width, read twice), kWarps warps a row.
template <int kCount, int kVectors, int kWarps>
__global__ void __launch_bounds__(kWarps == 1 ? 128 : 256) quantize_rows(const QuantizeArguments a) {
  __shared__ float shared[kWarps];
  wait_for_predecessor();
  constexpr int kLanes = 32 * kWarps;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t row =
      kWarps == 1 ? static_cast<std::int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / 32 : blockIdx.x;
  if (row >= a.rows) return;  // a whole warp, or block
  const Bf16* x = a.x + row * a.stride;
  std::uint8_t* codes = a.codes + row * a.columns;
  float most = 0;
  if constexpr (kVectors > 0) {
    float v[kVectors][kCount];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      load_values<kCount>(a, x, (i * kLanes + lane) * kCount, v[i]);
#pragma unroll
      for (int k = 0; k < kCount; ++k) most = larger(most, v[i][k]);
    }
    most = row_max<kWarps>(most, shared);
    const float inverse = inverse_of(most);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const std::int64_t column = (i * kLanes + lane) * kCount;
      if (column < a.columns) store_codes<kCount>(codes + column, v[i], inverse);
    }
  } else {
    float v[kCount];
    for (std::int64_t column = lane * kCount; column < a.columns; column += kLanes * kCount) {
      load_values<kCount>(a, x, column, v);
#pragma unroll
      for (int k = 0; k < kCount; ++k) most = larger(most, v[k]);
    }
    most = row_max<kWarps>(most, shared);
    const float inverse = inverse_of(most);
    for (std::int64_t column = lane * kCount; column < a.columns; column += kLanes * kCount) {
      load_values<kCount>(a, x, column, v);
      store_codes<kCount>(codes + column, v, inverse);
    }
  }
  if (lane == 0) a.scales[row] = scale_of(most);
}

template <int kCount, int kVectors, int kWarps>
int launch_rows(const QuantizeArguments& a, void* stream) {
  const unsigned blocks = blocks_for(a.rows, kWarps == 1 ? kRowsOfBlock : 1);
  return launch(quantize_rows<kCount, kVectors, kWarps>, dim3(blocks), kWarps == 1 ? 128 : 256, 0, stream, true, a);
}

int choose_rows(const QuantizeArguments& a, void* stream) {
  constexpr int kCount = 8, kWarp = 32 * kCount, kBlock = 8 * kWarp;
  if (!aligned(a.x) || !aligned(a.codes) || a.columns % kCount != 0 || a.stride % kCount != 0) {
    return launch_rows<1, 0, 8>(a, stream);
  }
  if (a.columns <= kWarp) return launch_rows<kCount, 1, 1>(a, stream);
  if (a.columns <= 2 * kWarp) return launch_rows<kCount, 2, 1>(a, stream);
  if (a.columns <= 3 * kWarp) return launch_rows<kCount, 3, 1>(a, stream);
  if (a.columns <= 4 * kWarp) return launch_rows<kCount, 4, 1>(a, stream);
  if (a.columns <= kBlock) return launch_rows<kCount, 1, 8>(a, stream);
  if (a.columns <= 2 * kBlock) return launch_rows<kCount, 2, 8>(a, stream);
  if (a.columns <= 4 * kBlock) return launch_rows<kCount, 4, 8>(a, stream);
  return launch_rows<kCount, 0, 8>(a, stream);
}

/// Block (x, y): kCount × 128 columns from x on, of row y.
template <int kCount>
__global__ void __launch_bounds__(128)
    scale_rows_and_columns(Bf16* y, std::int64_t columns, const float* row_scales, const float* column_scales,
                           const Bf16* bias, const Bf16* residual, std::int64_t residual_stride) {
  wait_for_predecessor();
  const std::int64_t row = blockIdx.x;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * 128 + threadIdx.x) * kCount;
  if (column >= columns) return;
  const float scale = row_scales != nullptr ? row_scales[row] : 1.0f;
  float v[kCount], more[kCount];
  load<kCount>(y + row * columns + column, v);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    v[k] *= scale;
    if (column_scales != nullptr) v[k] *= column_scales[column + k];
  }
  if (bias != nullptr) {
    load<kCount>(bias + column, more);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] += more[k];
  }
  if (residual != nullptr) {
    load<kCount>(residual + row * residual_stride + column, more);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] += more[k];
  }
  store<kCount>(y + row * columns + column, v);
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_fp8_quantize(const void* x, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                           const float* factors, void* codes, float* scales, void* stream) {
  if (rows == 0) return cudaSuccess;
  return choose_rows(
      {static_cast<const Bf16*>(x), stride, rows, columns, factors, static_cast<std::uint8_t*>(codes), scales},
      stream);
}

int finesweep_scale_rows_and_columns(void* y, std::int64_t rows, std::int64_t columns, const float* row_scales,
                                     const float* column_scales, const void* bias, const void* residual,
                                     std::int64_t residual_stride, void* stream) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  constexpr int kCount = 8;
  const bool vectors =
      aligned(y) && aligned(bias) && aligned(residual) && columns % kCount == 0 && residual_stride % kCount == 0;
  const auto kernel = vectors ? scale_rows_and_columns<kCount> : scale_rows_and_columns<1>;
  const dim3 grid(static_cast<unsigned>(rows), blocks_for(columns, 128 * (vectors ? kCount : 1)));
  return launch(kernel, grid, 128, 0, stream, true, static_cast<Bf16*>(y), columns, row_scales, column_scales,
                static_cast<const Bf16*>(bias), static_cast<const Bf16*>(residual), residual_stride);
}
}
