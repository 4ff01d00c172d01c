#include "worker/kernels/cuda/device.cuh"
#include "worker/kernels/cuda/fp8.cuh"

// LayerNorm and RMSNorm of [tokens, width] with the residual and the dropout around them: each element is read once
// and written once. A token's row is kept in registers by one warp (narrow rows, four tokens a block) or by eight.

namespace finesweep::cuda {
namespace {

constexpr int kPartialRows = 528;
constexpr int kTokensOfBlock = 4;  // where a warp does a token

struct ForwardArguments {
  const void *x, *residual;
  void *sum, *y;
  std::int64_t y_stride;
  float *mean, *inverse;
  std::int64_t tokens, width;
  FinesweepNormWeights norm;
  FinesweepDropout input, output;
  std::uint8_t* codes;  // null: y is not wanted in FP8
  float* scales;
};

struct BackwardArguments {
  const void *x, *dy;
  std::int64_t dy_stride;
  const float *mean, *inverse;
  const void* add;
  void *dx, *masked;
  float* partial;
  std::int64_t tokens, width;
  FinesweepNormWeights norm;
  FinesweepDropout input, output;
};

/// kCount elements a vector, kVectors of them a thread, kWarps warps a token.
template <typename T, int kCount, int kVectors, int kWarps>
__global__ void __launch_bounds__(kWarps == 1 ? 128 : 256) forward(const ForwardArguments a) {
  __shared__ float shared[kWarps];
  wait_for_predecessor();
  constexpr int kLanes = 32 * kWarps;
  const int lane = threadIdx.x % kLanes;
  const std::int64_t token =
      kWarps == 1 ? static_cast<std::int64_t>(blockIdx.x) * kTokensOfBlock + threadIdx.x / 32 : blockIdx.x;
  if (token >= a.tokens) return;
  const int width = static_cast<int>(a.width);
  const T* x = static_cast<const T*>(a.x) + token * a.width;
  float v[kVectors][kCount];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = (i * kLanes + lane) * kCount;
    if (column < width) {
      load<kCount>(x + column, v[i]);
    } else {
#pragma unroll
      for (int k = 0; k < kCount; ++k) v[i][k] = 0;
    }
  }
  if (a.residual != nullptr) {
    const T* residual = static_cast<const T*>(a.residual) + token * a.width;
    T* sum = static_cast<T*>(a.sum) + token * a.width;
    const TokenMask mask(a.input, a.input.threshold != 0 ? site_lane(a.input) : 0, token);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (i * kLanes + lane) * kCount;
      if (column >= width) continue;
      float r[kCount];
      load<kCount>(residual + column, r);
      mask.apply(v[i], column);
#pragma unroll
      for (int k = 0; k < kCount; ++k) v[i][k] = from(to<T>(v[i][k] + r[k]));
      store<kCount>(sum + column, v[i]);
    }
  }
  float mean = 0;
  if (a.norm.centred) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
#pragma unroll
      for (int k = 0; k < kCount; ++k) total += v[i][k];
    mean = block_sum<kWarps>(total, shared) / a.width;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = (i * kLanes + lane) * kCount;
    if (column >= width) continue;
#pragma unroll
    for (int k = 0; k < kCount; ++k) squares += (v[i][k] - mean) * (v[i][k] - mean);
  }
  const float inverse = rsqrtf(block_sum<kWarps>(squares, shared) / a.width + a.norm.epsilon);
  if (lane == 0 && a.mean != nullptr) {
    a.mean[token] = mean;
    a.inverse[token] = inverse;
  }
  T* y = static_cast<T*>(a.y) + token * a.y_stride;
  const TokenMask mask(a.output, a.output.threshold != 0 ? site_lane(a.output) : 0, token);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = (i * kLanes + lane) * kCount;
    if (column >= width) continue;
    float weight[kCount], out[kCount];
    load<kCount>(a.norm.weight + column, weight);
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = (v[i][k] - mean) * inverse * weight[k];
    if (a.norm.bias != nullptr) {
      load<kCount>(a.norm.bias + column, weight);
#pragma unroll
      for (int k = 0; k < kCount; ++k) out[k] += weight[k];
    }
    mask.apply(out, column);
    store<kCount>(y + column, out);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[i][k] = from(to<T>(out[k]));
  }
  if (a.codes == nullptr) return;
  float most = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if ((i * kLanes + lane) * kCount >= width) continue;
#pragma unroll
    for (int k = 0; k < kCount; ++k) most = larger(most, v[i][k]);
  }
  most = row_max<kWarps>(most, shared);
  const float scaling = fp8_inverse(most);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = (i * kLanes + lane) * kCount;
    if (column < width) store_fp8<kCount>(a.codes + token * a.width + column, v[i], scaling);
  }
  if (lane == 0) a.scales[token] = fp8_scale(most);
}

/// kParameters: sums for weight and bias too; then the grid is kPartialRows blocks.
template <typename T, int kCount, int kVectors, int kWarps, bool kParameters>
__global__ void __launch_bounds__(kWarps == 1 ? 128 : 256) backward(const BackwardArguments a) {
  __shared__ float shared[kWarps];
  wait_for_predecessor();
  constexpr int kLanes = 32 * kWarps;
  constexpr int kTokens = kWarps == 1 ? kTokensOfBlock : 1;
  const int lane = threadIdx.x % kLanes, mine = kWarps == 1 ? threadIdx.x / 32 : 0;
  const int width = static_cast<int>(a.width);
  const std::uint64_t input_site = a.input.threshold != 0 ? site_lane(a.input) : 0;
  const std::uint64_t output_site = a.output.threshold != 0 ? site_lane(a.output) : 0;
  float weight[kVectors][kCount];
  [[maybe_unused]] float d_weight[kParameters ? kVectors : 1][kCount], d_bias[kParameters ? kVectors : 1][kCount];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = (i * kLanes + lane) * kCount;
    if (column < width) load<kCount>(a.norm.weight + column, weight[i]);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (column >= width) weight[i][k] = 0;
      if constexpr (kParameters) d_weight[i][k] = d_bias[i][k] = 0;
    }
  }
  for (std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * kTokens + mine; token < a.tokens;
       token += static_cast<std::int64_t>(gridDim.x) * kTokens) {
    const T* x = static_cast<const T*>(a.x) + token * a.width;
    const T* dy = static_cast<const T*>(a.dy) + token * a.dy_stride;
    const float mean = a.mean[token], inverse = a.inverse[token];
    const TokenMask output_mask(a.output, output_site, token);
    // All that is read is asked for before anything waits.
    float g[kVectors][kCount], n[kVectors][kCount], more[kVectors][kCount];
    float sum_g = 0, sum_gn = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (i * kLanes + lane) * kCount;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        g[i][k] = more[i][k] = 0;
        n[i][k] = mean;
      }
      if (column >= width) continue;
      load<kCount>(x + column, n[i]);
      load<kCount>(dy + column, g[i]);
      if (a.add != nullptr) load<kCount>(static_cast<const T*>(a.add) + token * a.width + column, more[i]);
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (i * kLanes + lane) * kCount;
      if (column < width) output_mask.apply(g[i], column);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        n[i][k] = (n[i][k] - mean) * inverse;
        if constexpr (kParameters) {
          d_weight[i][k] += g[i][k] * n[i][k];
          d_bias[i][k] += g[i][k];
        }
        g[i][k] *= weight[i][k];
        sum_g += g[i][k];
        sum_gn += g[i][k] * n[i][k];
      }
    }
    sum_g = a.norm.centred ? block_sum<kWarps>(sum_g, shared) / a.width : 0.0f;
    sum_gn = block_sum<kWarps>(sum_gn, shared) / a.width;
    const TokenMask input_mask(a.input, input_site, token);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int column = (i * kLanes + lane) * kCount;
      if (column >= width) continue;
      float d[kCount];
#pragma unroll
      for (int k = 0; k < kCount; ++k) d[k] = inverse * (g[i][k] - sum_g - n[i][k] * sum_gn);
      if (a.masked != nullptr) {
        float kept[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) kept[k] = d[k];
        input_mask.apply(kept, column);
        store<kCount>(static_cast<T*>(a.masked) + token * a.width + column, kept);
      }
#pragma unroll
      for (int k = 0; k < kCount; ++k) d[k] += more[i][k];
      if (a.dx != nullptr) store<kCount>(static_cast<T*>(a.dx) + token * a.width + column, d);
    }
  }
  if constexpr (kParameters) {
    float* out = a.partial + static_cast<std::int64_t>(blockIdx.x) * 2 * a.width;
    if constexpr (kWarps == 1) {
      // Four warps hold sums of the same columns: one after the other adds its own.
      __shared__ float sums[2 * 32 * kVectors * kCount];
      for (int warp = 0; warp < kTokens; ++warp) {
        if (mine == warp) {
#pragma unroll
          for (int i = 0; i < kVectors; ++i)
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
              const int column = (i * kLanes + lane) * kCount + k;
              float* place = sums + 2 * column;
              place[0] = (warp == 0 ? 0.0f : place[0]) + d_weight[i][k];
              place[1] = (warp == 0 ? 0.0f : place[1]) + d_bias[i][k];
            }
        }
        __syncthreads();
      }
      for (int column = threadIdx.x; column < width; column += blockDim.x) {
        out[column] = sums[2 * column];
        out[a.width + column] = sums[2 * column + 1];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
          const int column = (i * kLanes + lane) * kCount + k;
          if (column >= width) continue;
          out[column] = d_weight[i][k];
          out[a.width + column] = d_bias[i][k];
        }
    }
  }
}

template <typename T, int kCount, int kVectors, int kWarps>
int launch_norm(const ForwardArguments& a, cudaStream_t stream) {
  const unsigned blocks = blocks_for(a.tokens, kWarps == 1 ? kTokensOfBlock : 1);
  return launch(forward<T, kCount, kVectors, kWarps>, dim3(blocks), kWarps == 1 ? 128 : 256, 0, stream, true, a);
}
template <typename T, int kCount, int kVectors, int kWarps>
int launch_norm(const BackwardArguments& a, cudaStream_t stream) {
  constexpr int kThreads = kWarps == 1 ? 128 : 256;
  if (a.partial != nullptr) {
    return launch(backward<T, kCount, kVectors, kWarps, true>, dim3(kPartialRows), kThreads, 0, stream, true, a);
  }
  const unsigned blocks = blocks_for(a.tokens, kWarps == 1 ? kTokensOfBlock : 1);
  return launch(backward<T, kCount, kVectors, kWarps, false>, dim3(blocks), kThreads, 0, stream, true, a);
}

/// Calls the kernel that fits the width.
template <typename T, int kCount, typename Arguments>
int choose(const Arguments& a, cudaStream_t stream) {
  constexpr int kWarp = 32 * kCount, kBlock = 8 * kWarp;
  if constexpr (kCount == 1) {
    if (a.width <= 4 * kWarp) return launch_norm<T, 1, 4, 1>(a, stream);
    if (a.width <= kBlock) return launch_norm<T, 1, 1, 8>(a, stream);
    if (a.width <= 8 * kBlock) return launch_norm<T, 1, 8, 8>(a, stream);
  } else {
    if (a.width <= kWarp) return launch_norm<T, kCount, 1, 1>(a, stream);
    if (a.width <= 2 * kWarp) return launch_norm<T, kCount, 2, 1>(a, stream);
    if (a.width <= 3 * kWarp) return launch_norm<T, kCount, 3, 1>(a, stream);
    if (a.width <= 4 * kWarp) return launch_norm<T, kCount, 4, 1>(a, stream);
    if (a.width <= kBlock) return launch_norm<T, kCount, 1, 8>(a, stream);
    if (a.width <= 2 * kBlock) return launch_norm<T, kCount, 2, 8>(a, stream);
    if (a.width <= 4 * kBlock) return launch_norm<T, kCount, 4, 8>(a, stream);
  }
  return cudaErrorInvalidValue;
}

bool in_vectors(std::int64_t width, std::size_t bytes) {
  return width * static_cast<std::int64_t>(bytes) % 16 == 0;
}

__global__ void __launch_bounds__(1024) add_partial(const float* partial, std::int64_t rows, std::int64_t columns,
                                                    std::int64_t second_begin, float* first, float* second) {
  // 32 columns a block, 32 threads each.
  __shared__ float sums[32][33];
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (column < columns) {
    for (std::int64_t row = threadIdx.y; row < rows; row += 32) sum += partial[row * columns + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = warp_sum(sums[threadIdx.x][threadIdx.y]);
  const std::int64_t mine = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.y;
  if (threadIdx.x != 0 || mine >= columns) return;
  float* out = mine < second_begin ? first : second;
  if (out != nullptr) out[mine < second_begin ? mine : mine - second_begin] += sum;
}

/// Block (x, y): kCount × 32 columns from x on, of the tokens y, y + grid, … eight warps in turn.
template <typename T, int kCount>
__global__ void __launch_bounds__(256) partial_column_sums(const T* x, std::int64_t tokens, std::int64_t columns,
                                                           std::int64_t stride, float* partial) {
  __shared__ float sums[8][32 * kCount];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * 32 + lane) * kCount;
  float sum[kCount] = {};
  if (column < columns) {
    for (std::int64_t token = static_cast<std::int64_t>(blockIdx.y) * 8 + warp; token < tokens;
         token += static_cast<std::int64_t>(gridDim.y) * 8) {
      float v[kCount];
      load<kCount>(x + token * stride + column, v);
#pragma unroll
      for (int k = 0; k < kCount; ++k) sum[k] += v[k];
    }
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) sums[warp][lane * kCount + k] = sum[k];
  __syncthreads();
  for (int c = threadIdx.x; c < 32 * kCount; c += 256) {
    const std::int64_t out = static_cast<std::int64_t>(blockIdx.x) * 32 * kCount + c;
    if (out >= columns) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) total += sums[w][c];
    partial[static_cast<std::int64_t>(blockIdx.y) * columns + out] = total;
  }
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

std::int64_t finesweep_partial_rows() {
  return kPartialRows;
}

int finesweep_norm_fits(std::int64_t width, int type) {
  const std::int64_t bytes = type == kFinesweepFloat32 ? 4 : 2;
  const std::int64_t most = width * bytes % 16 == 0 ? 4 * 256 * (16 / bytes) : 8 * 256;
  return width >= 1 && width <= most ? 1 : 0;
}

int finesweep_norm_forward(const void* x, const void* residual, void* sum, void* y, std::int64_t y_stride,
                           float* mean, float* inverse, std::int64_t tokens, std::int64_t width,
                           const FinesweepNormWeights* norm, const FinesweepDropout* input_dropout,
                           const FinesweepDropout* output_dropout, void* codes, float* scales, int type,
                           void* stream) {
  if (tokens == 0) return cudaSuccess;
  const ForwardArguments a{x,
                           residual,
                           sum,
                           y,
                           y_stride,
                           mean,
                           inverse,
                           tokens,
                           width,
                           *norm,
                           *input_dropout,
                           *output_dropout,
                           static_cast<std::uint8_t*>(codes),
                           scales};
  const auto on = static_cast<cudaStream_t>(stream);
  const bool together =
      aligned(x) && aligned(residual) && aligned(sum) && aligned(y) && aligned(norm->weight) && aligned(norm->bias);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const bool vectors = together && in_vectors(width, sizeof(T)) && in_vectors(y_stride, sizeof(T));
    return vectors ? choose<T, kVector<T>>(a, on) : choose<T, 1>(a, on);
  });
}

int finesweep_norm_backward(const void* x, const void* dy, std::int64_t dy_stride, const float* mean,
                            const float* inverse, const void* add, void* dx, void* masked, float* partial,
                            std::int64_t tokens, std::int64_t width, const FinesweepNormWeights* norm,
                            const FinesweepDropout* input_dropout, const FinesweepDropout* output_dropout, int type,
                            void* stream) {
  if (tokens == 0) return cudaSuccess;
  const BackwardArguments a{x,      dy,    dy_stride, mean,           inverse,        add, dx, masked, partial,
                            tokens, width, *norm,     *input_dropout, *output_dropout};
  const auto on = static_cast<cudaStream_t>(stream);
  const bool together =
      aligned(x) && aligned(dy) && aligned(add) && aligned(dx) && aligned(masked) && aligned(norm->weight);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const bool vectors = together && in_vectors(width, sizeof(T)) && in_vectors(dy_stride, sizeof(T));
    return vectors ? choose<T, kVector<T>>(a, on) : choose<T, 1>(a, on);
  });
}

int finesweep_add_partial(const float* partial, std::int64_t rows, std::int64_t columns, std::int64_t second_begin,
                          float* first, float* second, void* stream) {
  add_partial<<<blocks_for(columns, 32), dim3(32, 32), 0, static_cast<cudaStream_t>(stream)>>>(
      partial, rows, columns, second_begin, first, second);
  return cudaGetLastError();
}

int finesweep_partial_column_sums(const void* x, std::int64_t tokens, std::int64_t columns, std::int64_t stride,
                                  float* partial, std::int64_t rows, int type, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const T* from = static_cast<const T*>(x);
    if (aligned(x) && in_vectors(columns, sizeof(T)) && in_vectors(stride, sizeof(T))) {
      const dim3 grid(blocks_for(columns, 32 * kVector<T>), static_cast<unsigned>(rows));
      partial_column_sums<T, kVector<T>><<<grid, 256, 0, on>>>(from, tokens, columns, stride, partial);
    } else {
      const dim3 grid(blocks_for(columns, 32), static_cast<unsigned>(rows));
      partial_column_sums<T, 1><<<grid, 256, 0, on>>>(from, tokens, columns, stride, partial);
    }
    return static_cast<int>(cudaGetLastError());
  });
}
}
