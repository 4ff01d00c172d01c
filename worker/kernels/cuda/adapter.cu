#include "worker/kernels/cuda/matrices.cuh"

// Gradients of LoRA's thin matrices. Both are products over the tokens of a wide matrix (d or x) with a thin one
// (down or through): a block has 64 columns of a wide one and a stretch of the tokens, and the last block of the
// columns adds the stretches up, in their order.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 128, kTile = 64, kRank = 16, kMostTiles = 4096;

/// Blocks that are done of each tile of columns. 0 between calls.
__device__ unsigned done[kMostTiles];

std::int64_t tiles_of(std::int64_t columns) {
  return (columns + kTile - 1) / kTile;
}

/// Stretches of tokens: enough blocks to fill the device twice, each of some tiles of tokens.
std::int64_t stretches_of(std::int64_t tokens, std::int64_t tiles) {
  const std::int64_t wanted = (512 + tiles - 1) / tiles, most = (tokens + 2 * kTile - 1) / (2 * kTile);
  return wanted < most ? wanted : (most < 1 ? 1 : most);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gradients(const FinesweepAdapterGradients a, int out_tiles, float* partial) {
  __shared__ __align__(16) T wide[kTile][kTile + 8];
  __shared__ __align__(16) T thin[kTile][kRank + 8];
  __shared__ bool last;
  const bool of_b = static_cast<int>(blockIdx.x) < out_tiles;
  const int columns = static_cast<int>(of_b ? a.outs : a.ins), rank = static_cast<int>(a.rank);
  const int first = (static_cast<int>(blockIdx.x) - (of_b ? 0 : out_tiles)) * kTile;
  const T* from_wide = static_cast<const T*>(of_b ? a.d : a.x);
  const T* from_thin = static_cast<const T*>(of_b ? a.down : a.through);
  const std::int64_t wide_stride = of_b ? a.d_stride : a.x_stride;
  const std::int64_t thin_stride = of_b ? a.down_stride : a.through_stride;
  const int tokens = static_cast<int>(a.tokens);
  const int stretch =
      ((tokens + kTile - 1) / kTile + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);
  const int begin = static_cast<int>(blockIdx.y) * stretch * kTile, end = min(tokens, begin + stretch * kTile);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 * 16;

  float sum[2][4] = {};
  for (int t0 = begin; t0 < end; t0 += kTile) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile * kTile / 8 / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x, row = piece / (kTile / 8), column = piece % (kTile / 8) * 8;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (t0 + row < end && first + column < columns) {
        value = *reinterpret_cast<const uint4*>(from_wide + (t0 + row) * wide_stride + first + column);
      }
      *reinterpret_cast<uint4*>(&wide[row][column]) = value;
    }
#pragma unroll
    for (int i = 0; i < kTile * kRank / kThreads; ++i) {
      const int piece = i * kThreads + threadIdx.x, row = piece / kRank, column = piece % kRank;
      thin[row][column] =
          t0 + row < end && column < rank ? from_thin[(t0 + row) * thin_stride + column] : to<T>(0.0f);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTile / 16; ++k) {
      std::uint32_t left[4], right[4];
      load_transposed(left, &wide[k * 16 + lane / 16 * 8 + lane % 8][warp + lane / 8 % 2 * 8]);
      load_transposed(right, &thin[k * 16 + lane % 16][lane / 16 * 8]);
      multiply<T>(sum[0], left, right[0], right[1]);
      multiply<T>(sum[1], left, right[2], right[3]);
    }
  }
  // [tile][stretch][column][rank]
  float* mine = partial + (static_cast<std::int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * kTile * kRank;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mine[(warp + lane / 4 + i / 2 * 8) * kRank + n * 8 + lane % 4 * 2 + i % 2] = sum[n][i];
    }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&done[blockIdx.x], 1u) == gridDim.y - 1;
    if (last) done[blockIdx.x] = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const float* all = partial + static_cast<std::int64_t>(blockIdx.x) * gridDim.y * kTile * kRank;
  for (int i = threadIdx.x; i < kTile * kRank; i += kThreads) {
    // A thread's neighbours write neighbours: of b rows are columns here, of a they are ranks.
    const int column = of_b ? i / kRank : i % kTile, r = of_b ? i % kRank : i / kTile;
    if (first + column >= columns || r >= rank) continue;
    float total = 0;
    for (unsigned s = 0; s < gridDim.y; ++s) total += __ldcg(all + s * kTile * kRank + column * kRank + r);
    if (of_b) {
      a.b[static_cast<std::int64_t>(first + column) * rank + r] += a.scale * total;
    } else {
      a.a[static_cast<std::int64_t>(r) * columns + first + column] += a.scale * total;
    }
  }
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

std::int64_t finesweep_adapter_scratch(std::int64_t tokens, std::int64_t outs, std::int64_t ins) {
  const std::int64_t tiles = tiles_of(outs) + tiles_of(ins);
  return tiles * stretches_of(tokens, tiles) * kTile * kRank;
}

int finesweep_adapter_gradients(const FinesweepAdapterGradients* what, float* partial, int type, void* stream) {
  const std::int64_t out_tiles = tiles_of(what->outs), tiles = out_tiles + tiles_of(what->ins);
  if (what->rank > kRank || tiles > kMostTiles) return cudaErrorInvalidValue;
  if (what->tokens == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(stretches_of(what->tokens, tiles)));
  const auto on = static_cast<cudaStream_t>(stream);
  if (type == kBFloat16) {
    gradients<__nv_bfloat16><<<grid, kThreads, 0, on>>>(*what, static_cast<int>(out_tiles), partial);
  } else if (type == kFloat16) {
    gradients<__half><<<grid, kThreads, 0, on>>>(*what, static_cast<int>(out_tiles), partial);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}
}
