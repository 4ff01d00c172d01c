// What stands between the products of a decoding step: a norm of its own where there are too many tokens for the
// product's, the middle of a gated block, and the embedding.

#include "worker/kernels/cuda/decode.cuh"

namespace {

using namespace finesweep_decode;

constexpr int kThreads = 128;

__device__ inline float block_sum(float v) {
  __shared__ float sums[kThreads / 32];
  v = warp_sum(v);
  __syncthreads();  // the last sum has been read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += sums[i];
  return total;
}

/// A block a token; the token comes three times, twice of them from the first cache.
template <typename T>
__global__ void __launch_bounds__(kThreads) norm(const FinesweepNorm how, const T* x, int width, T* y) {
  constexpr int kValues = kVector<T>;
  const int vectors = width / kValues;
  const uint4* from = reinterpret_cast<const uint4*>(x + static_cast<long>(blockIdx.x) * width);
  uint4* to = reinterpret_cast<uint4*>(y + static_cast<long>(blockIdx.x) * width);
  let_successor_begin();
  wait_for_predecessor();
  float mean = 0;
  if (how.centred != 0) {
    float sum = 0;
    for (int v = threadIdx.x; v < vectors; v += kThreads) {
      float values[kValues];
      unpack<T>(from[v], values);
#pragma unroll
      for (int i = 0; i < kValues; ++i) sum += values[i];
    }
    mean = block_sum(sum) / width;
  }
  float squares = 0;
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    float values[kValues];
    unpack<T>(from[v], values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) squares += (values[i] - mean) * (values[i] - mean);
  }
  const float inverse = rsqrtf(block_sum(squares) / width + how.epsilon);
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    float values[kValues];
    unpack<T>(from[v], values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      values[i] = (values[i] - mean) * inverse * how.weight[v * kValues + i];
      if (how.bias != nullptr) values[i] += how.bias[v * kValues + i];
    }
    to[v] = pack<T>(values);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) gate(const T* z, long count, int inner_vectors, int activation, T* y) {
  constexpr int kValues = kVector<T>;
  const long i = static_cast<long>(blockIdx.x) * kThreads + threadIdx.x;
  let_successor_begin();
  wait_for_predecessor();
  if (i >= count) return;
  const uint4* from = reinterpret_cast<const uint4*>(z) + i / inner_vectors * 2 * inner_vectors + i % inner_vectors;
  float gates[kValues], values[kValues];
  unpack<T>(from[0], gates);
  unpack<T>(from[inner_vectors], values);
#pragma unroll
  for (int k = 0; k < kValues; ++k) values[k] *= activate(gates[k], activation);
  reinterpret_cast<uint4*>(y)[i] = pack<T>(values);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) embed(const T* words, const std::int64_t* ids, const T* positions,
                                                  const std::int64_t* places, int width, T* y) {
  constexpr int kValues = kVector<T>;
  const int vectors = width / kValues;
  let_successor_begin();
  wait_for_predecessor();
  const uint4* word = reinterpret_cast<const uint4*>(words + ids[blockIdx.x] * width);
  const uint4* place =
      positions == nullptr ? nullptr : reinterpret_cast<const uint4*>(positions + places[blockIdx.x] * width);
  uint4* to = reinterpret_cast<uint4*>(y + static_cast<long>(blockIdx.x) * width);
  for (int v = threadIdx.x; v < vectors; v += kThreads) {
    float values[kValues], more[kValues];
    unpack<T>(word[v], values);
    if (place != nullptr) {
      unpack<T>(place[v], more);
#pragma unroll
      for (int i = 0; i < kValues; ++i) values[i] += more[i];
    }
    to[v] = pack<T>(values);
  }
}

}  // namespace

extern "C" {

int finesweep_decode_norm(const FinesweepNorm* how, const void* x, std::int64_t tokens, std::int64_t width, void* y,
                          int type, void* stream) {
  return with_type(type, [&](auto tag) -> int {
    using T = decltype(tag);
    if (width % kVector<T> != 0 || tokens < 1) return cudaErrorInvalidValue;
    return launch(norm<T>, dim3(static_cast<unsigned>(tokens)), kThreads, 0, stream, true, *how,
                  static_cast<const T*>(x), static_cast<int>(width), static_cast<T*>(y));
  });
}

int finesweep_decode_gate(const void* z, std::int64_t tokens, std::int64_t inner, int activation, void* y, int type,
                          void* stream) {
  return with_type(type, [&](auto tag) -> int {
    using T = decltype(tag);
    if (inner % kVector<T> != 0 || tokens < 1) return cudaErrorInvalidValue;
    const std::int64_t vectors = inner / kVector<T>, count = tokens * vectors;
    return launch(gate<T>, dim3(static_cast<unsigned>(divide_up(count, kThreads))), kThreads, 0, stream, true,
                  static_cast<const T*>(z), static_cast<long>(count), static_cast<int>(vectors), activation,
                  static_cast<T*>(y));
  });
}

int finesweep_decode_embed(const void* words, const std::int64_t* ids, const void* positions,
                           const std::int64_t* places, std::int64_t tokens, std::int64_t width, void* y, int type,
                           void* stream) {
  return with_type(type, [&](auto tag) -> int {
    using T = decltype(tag);
    if (width % kVector<T> != 0 || tokens < 1) return cudaErrorInvalidValue;
    // Begins when all before it has ended: what follows may read weights at once, whoever wrote them.
    return launch(embed<T>, dim3(static_cast<unsigned>(tokens)), kThreads, 0, stream, /*overlaps=*/false,
                  static_cast<const T*>(words), ids, static_cast<const T*>(positions), places,
                  static_cast<int>(width), static_cast<T*>(y));
  });
}
}
