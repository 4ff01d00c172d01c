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

/// Stretches of tokens: enough blocks to fill the device, each of some tiles of tokens.
std::int64_t stretches_of(std::int64_t tokens, std::int64_t tiles) {
  const std::int64_t wanted = (400 + tiles - 1) / tiles, most = (tokens + 2 * kTile - 1) / (2 * kTile);
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

  // Thin rows of whole vectors: one for each of the threads.
  const bool vectors =
      rank % 8 == 0 && thin_stride % 8 == 0 && reinterpret_cast<std::uintptr_t>(from_thin) % 16 == 0;
  constexpr int kPieces = kTile * kTile / 8 / kThreads;
  uint4 next_wide[kPieces], next_thin;
  const auto fetch = [&](int t0) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = i * kThreads + threadIdx.x, row = piece / (kTile / 8), column = piece % (kTile / 8) * 8;
      next_wide[i] = make_uint4(0, 0, 0, 0);
      if (t0 + row < end && first + column < columns) {
        next_wide[i] = *reinterpret_cast<const uint4*>(from_wide + (t0 + row) * wide_stride + first + column);
      }
    }
    const int row = threadIdx.x / 2, column = threadIdx.x % 2 * 8;
    const T* place = from_thin + (t0 + row) * thin_stride + column;
    alignas(16) T values[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] = to<T>(0.0f);
    if (t0 + row < end && column < rank) {
      if (vectors) {
        *reinterpret_cast<uint4*>(values) = *reinterpret_cast<const uint4*>(place);
      } else {
#pragma unroll
        for (int k = 0; k < 8; ++k) values[k] = column + k < rank ? place[k] : to<T>(0.0f);
      }
    }
    next_thin = *reinterpret_cast<const uint4*>(values);
  };

  float sum[2][4] = {};
  if (begin < end) fetch(begin);
  for (int t0 = begin; t0 < end; t0 += kTile) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = i * kThreads + threadIdx.x;
      *reinterpret_cast<uint4*>(&wide[piece / (kTile / 8)][piece % (kTile / 8) * 8]) = next_wide[i];
    }
    *reinterpret_cast<uint4*>(&thin[threadIdx.x / 2][threadIdx.x % 2 * 8]) = next_thin;
    __syncthreads();
    if (t0 + kTile < end) fetch(t0 + kTile);
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
  // Eight sums a thread at once, so that their loads do not wait for one another.
  constexpr int kOutputs = kTile * kRank / kThreads;
  const float* all = partial + static_cast<std::int64_t>(blockIdx.x) * gridDim.y * kTile * kRank;
  float total[kOutputs] = {};
  for (unsigned s = 0; s < gridDim.y; ++s) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) total[i] += __ldcg(all + s * kTile * kRank + i * kThreads + threadIdx.x);
  }
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    const int at = i * kThreads + threadIdx.x, column = first + at / kRank, r = at % kRank;
    if (column >= columns || r >= rank) continue;
    float* out = of_b ? a.b + static_cast<std::int64_t>(column) * rank + r
                      : a.a + static_cast<std::int64_t>(r) * columns + column;
    *out += a.scale * total[i];
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
