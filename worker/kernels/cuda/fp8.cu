#include "worker/kernels/cuda/activation.cuh"
#include "worker/kernels/cuda/device.cuh"
#include "worker/kernels/cuda/fp8.cuh"

// Rows of bf16 to FP8 e4m3 with a scale a row, behind an activation or its gradient too, and scales behind a
// product that has none. A row is kept in registers by one warp (narrow rows, four a block) or by 8, 16 or 32, so
// that it is read once; wider ones than 32,768 are read twice.

namespace finesweep::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kRowsOfBlock = 4;  // where a warp does a row

/// What becomes of the rows.
struct Fp8Target {
  std::int64_t rows, columns;
  std::uint8_t* codes;
  float* scales;
};

// Where the values come from: load() gives kCount of them.

/// x · factors.
struct PlainSource {
  const Bf16* x;
  std::int64_t stride;
  const float* factors;

  template <int kCount>
  __device__ void load(std::int64_t row, std::int64_t column, float (&v)[kCount]) const {
    cuda::load<kCount>(x + row * stride + column, v);
    if (factors == nullptr) return;
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] *= factors[column + k];
  }
};

/// activation(z), which goes to y too where that is not null.
template <int kActivation>
struct ActivationSource {
  const Bf16* z;
  Bf16* y;
  std::int64_t columns;

  template <int kCount>
  __device__ void load(std::int64_t row, std::int64_t column, float (&v)[kCount]) const {
    const std::int64_t place = row * columns + column;
    cuda::load<kCount>(z + place, v);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] = from(to<Bf16>(act<kActivation>(v[k])));
    if (y != nullptr) store<kCount>(y + place, v);
  }
};

/// dz · factors, where dz = dy · activation'(z) goes to memory too, unless its place is null.
template <int kActivation>
struct GradientSource {
  const Bf16 *z, *dy;
  Bf16* dz;
  const float* factors;
  std::int64_t columns;

  template <int kCount>
  __device__ void load(std::int64_t row, std::int64_t column, float (&v)[kCount]) const {
    const std::int64_t place = row * columns + column;
    float d[kCount];
    cuda::load<kCount>(z + place, v);
    cuda::load<kCount>(dy + place, d);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] = from(to<Bf16>(d[k] * act_gradient<kActivation>(v[k])));
    if (dz != nullptr) store<kCount>(dz + place, v);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] *= factors[column + k];
  }
};

/// act(z[:, :columns]) · z[:, columns:], which goes to y too where that is not null.
template <int kActivation>
struct GateSource {
  const Bf16* z;
  Bf16* y;
  std::int64_t columns;

  template <int kCount>
  __device__ void load(std::int64_t row, std::int64_t column, float (&v)[kCount]) const {
    float up[kCount];
    cuda::load<kCount>(z + row * 2 * columns + column, v);
    cuda::load<kCount>(z + row * 2 * columns + columns + column, up);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] = from(to<Bf16>(act<kActivation>(v[k]) * up[k]));
    if (y != nullptr) store<kCount>(y + row * columns + column, v);
  }
};

/// dz · factors, where dz, the gradient of z of the gate above, goes to memory too, unless its place is null.
template <int kActivation>
struct GateGradientSource {
  const Bf16 *z, *dy;
  Bf16* dz;
  const float* factors;
  std::int64_t inner;  // columns of dy

  template <int kCount>
  __device__ void load(std::int64_t row, std::int64_t column, float (&v)[kCount]) const {
    const bool is_gate = column < inner;
    const std::int64_t at = is_gate ? column : column - inner, place = row * 2 * inner + column;
    float gate[kCount], d[kCount];
    cuda::load<kCount>(z + row * 2 * inner + at, gate);
    cuda::load<kCount>(dy + row * inner + at, d);
    if (is_gate) {
      cuda::load<kCount>(z + place + inner, v);
#pragma unroll
      for (int k = 0; k < kCount; ++k) v[k] = from(to<Bf16>(d[k] * v[k] * act_gradient<kActivation>(gate[k])));
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) v[k] = from(to<Bf16>(d[k] * act<kActivation>(gate[k])));
    }
    if (dz != nullptr) store<kCount>(dz + place, v);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] *= factors[column + k];
  }
};

/// Threads of a block with so many warps a row.
template <int kWarps>
constexpr int kThreadsOf = kWarps == 1 ? 32 * kRowsOfBlock : 32 * kWarps;

/// kCount elements a vector, kVectors of them a thread (0: rows of any width, read twice), kWarps warps a row.
template <typename Source, int kCount, int kVectors, int kWarps>
__global__ void __launch_bounds__(kThreadsOf<kWarps>) quantize_rows(const Source source, const Fp8Target to) {
  __shared__ float shared[kWarps];
  wait_for_predecessor();
  constexpr int kLanes = 32 * kWarps;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t row =
      kWarps == 1 ? static_cast<std::int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / 32 : blockIdx.x;
  if (row >= to.rows) return;  // a whole warp, or block
  std::uint8_t* codes = to.codes + row * to.columns;
  float most = 0;
  if constexpr (kVectors > 0) {
    float v[kVectors][kCount];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const std::int64_t column = (i * kLanes + lane) * kCount;
#pragma unroll
      for (int k = 0; k < kCount; ++k) v[i][k] = 0;
      if (column < to.columns) source.template load<kCount>(row, column, v[i]);
#pragma unroll
      for (int k = 0; k < kCount; ++k) most = larger(most, v[i][k]);
    }
    most = row_max<kWarps>(most, shared);
    const float inverse = fp8_inverse(most);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const std::int64_t column = (i * kLanes + lane) * kCount;
      if (column < to.columns) store_fp8<kCount>(codes + column, v[i], inverse);
    }
  } else {
    float v[kCount];
    for (std::int64_t column = lane * kCount; column < to.columns; column += kLanes * kCount) {
      source.template load<kCount>(row, column, v);
#pragma unroll
      for (int k = 0; k < kCount; ++k) most = larger(most, v[k]);
    }
    most = row_max<kWarps>(most, shared);
    const float inverse = fp8_inverse(most);
    for (std::int64_t column = lane * kCount; column < to.columns; column += kLanes * kCount) {
      source.template load<kCount>(row, column, v);
      store_fp8<kCount>(codes + column, v, inverse);
    }
  }
  if (lane == 0) to.scales[row] = fp8_scale(most);
}

template <int kCount, int kVectors, int kWarps, typename Source>
int launch_rows(const Source& source, const Fp8Target& to, void* stream) {
  const unsigned blocks = blocks_for(to.rows, kWarps == 1 ? kRowsOfBlock : 1);
  return launch(quantize_rows<Source, kCount, kVectors, kWarps>, dim3(blocks), kThreadsOf<kWarps>, 0, stream, true,
                source, to);
}

constexpr int kWide = 8, kOfWarp = 32 * kWide, kOfBlock = 8 * kOfWarp;

/// Rows of whole vectors that a block keeps, up to 32,768 columns.
template <typename Source>
int launch_kept(const Source& source, const Fp8Target& to, void* stream) {
  if (to.columns <= kOfBlock) return launch_rows<kWide, 1, 8>(source, to, stream);
  if (to.columns <= 2 * kOfBlock) return launch_rows<kWide, 2, 8>(source, to, stream);
  if (to.columns <= 4 * kOfBlock) return launch_rows<kWide, 4, 8>(source, to, stream);
  if (to.columns <= 6 * kOfBlock) return launch_rows<kWide, 3, 16>(source, to, stream);
  if (to.columns <= 8 * kOfBlock) return launch_rows<kWide, 4, 16>(source, to, stream);
  if (to.columns <= 16 * kOfBlock) return launch_rows<kWide, 4, 32>(source, to, stream);
  return cudaErrorInvalidValue;
}
constexpr int kWidestKept = 16 * kOfBlock;

int quantize_plain(const PlainSource& source, const Fp8Target& to, void* stream) {
  const bool vectors =
      aligned(source.x) && aligned(to.codes) && to.columns % kWide == 0 && source.stride % kWide == 0;
  if (!vectors) return launch_rows<1, 0, 8>(source, to, stream);
  if (to.columns <= kOfWarp) return launch_rows<kWide, 1, 1>(source, to, stream);
  if (to.columns <= 2 * kOfWarp) return launch_rows<kWide, 2, 1>(source, to, stream);
  if (to.columns <= 3 * kOfWarp) return launch_rows<kWide, 3, 1>(source, to, stream);
  if (to.columns <= 4 * kOfWarp) return launch_rows<kWide, 4, 1>(source, to, stream);
  if (to.columns <= kWidestKept) return launch_kept(source, to, stream);
  return launch_rows<kWide, 0, 8>(source, to, stream);
}

/// Sources that write what they give: a row must be loaded once.
template <typename Source>
int quantize_written(const Source& source, const Fp8Target& to, void* stream) {
  if (to.columns % kWide != 0 || !aligned(to.codes)) return cudaErrorInvalidValue;
  return launch_kept(source, to, stream);
}

/// Of the activations that these kernels have.
template <typename Work>
int with_own_activation(int activation, const Work& work) {
  return with_activation<kActivationGelu, kActivationGeluTanh, kActivationSilu>(activation, work);
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
  return quantize_plain({static_cast<const Bf16*>(x), stride, factors},
                        {rows, columns, static_cast<std::uint8_t*>(codes), scales}, stream);
}

int finesweep_fp8_activation_forward(int activation, const void* z, void* y, std::int64_t rows,
                                     std::int64_t columns, void* codes, float* scales, void* stream) {
  if (rows == 0) return cudaSuccess;
  if (!aligned(z) || !aligned(y)) return cudaErrorInvalidValue;
  const auto* from = static_cast<const Bf16*>(z);
  const auto out = static_cast<Bf16*>(y);
  const Fp8Target to{rows, columns, static_cast<std::uint8_t*>(codes), scales};
  return with_own_activation(activation, [&](auto kind) {
    return quantize_written(ActivationSource<decltype(kind)::value>{from, out, columns}, to, stream);
  });
}

int finesweep_fp8_activation_backward(int activation, const void* z, const void* dy, void* dz, const float* factors,
                                      std::int64_t rows, std::int64_t columns, void* codes, float* scales,
                                      void* stream) {
  if (rows == 0) return cudaSuccess;
  if (!aligned(z) || !aligned(dy) || !aligned(dz)) return cudaErrorInvalidValue;
  const auto *from = static_cast<const Bf16*>(z), *d = static_cast<const Bf16*>(dy);
  const auto out = static_cast<Bf16*>(dz);
  const Fp8Target to{rows, columns, static_cast<std::uint8_t*>(codes), scales};
  return with_own_activation(activation, [&](auto kind) {
    return quantize_written(GradientSource<decltype(kind)::value>{from, d, out, factors, columns}, to, stream);
  });
}

int finesweep_fp8_gate_forward(int activation, const void* z, void* y, std::int64_t rows, std::int64_t inner,
                               void* codes, float* scales, void* stream) {
  if (rows == 0) return cudaSuccess;
  if (!aligned(z) || !aligned(y)) return cudaErrorInvalidValue;
  const Fp8Target to{rows, inner, static_cast<std::uint8_t*>(codes), scales};
  return with_own_activation(activation, [&](auto kind) {
    return quantize_written(
        GateSource<decltype(kind)::value>{static_cast<const Bf16*>(z), static_cast<Bf16*>(y), inner}, to, stream);
  });
}

int finesweep_fp8_gate_backward(int activation, const void* z, const void* dy, void* dz, const float* factors,
                                std::int64_t rows, std::int64_t inner, void* codes, float* scales, void* stream) {
  if (rows == 0) return cudaSuccess;
  if (inner % kWide != 0 || !aligned(z) || !aligned(dy) || !aligned(dz)) return cudaErrorInvalidValue;
  const Fp8Target to{rows, 2 * inner, static_cast<std::uint8_t*>(codes), scales};
  return with_own_activation(activation, [&](auto kind) {
    return quantize_written(
        GateGradientSource<decltype(kind)::value>{static_cast<const Bf16*>(z), static_cast<const Bf16*>(dy),
                                                  static_cast<Bf16*>(dz), factors, inner},
        to, stream);
  });
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
