#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "worker/kernels/cuda/api.h"
#include "worker/kernels/cuda/launch.cuh"

// What the kernels share: conversions, 16-byte vectors, sums over warps, Philox, the choice of a type.

namespace finesweep::cuda {

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

/// Elements in 16 bytes.
template <typename T>
constexpr int kVector = 16 / sizeof(T);

/// kCount elements at once: 16 bytes, 8 or 4 of fewer, or one.
template <int kCount, typename T>
__device__ inline void load(const T* from_where, float (&out)[kCount]) {
  if constexpr (kCount * sizeof(T) % 16 == 0) {
    alignas(16) T values[kCount];
#pragma unroll
    for (int i = 0; i < static_cast<int>(kCount * sizeof(T) / 16); ++i)
      reinterpret_cast<uint4*>(values)[i] = reinterpret_cast<const uint4*>(from_where)[i];
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = from(values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) out[i] = from(from_where[i]);
  }
}

template <int kCount, typename T>
__device__ inline void store(T* where, const float (&in)[kCount]) {
  if constexpr (kCount * sizeof(T) % 16 == 0) {
    alignas(16) T values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = to<T>(in[i]);
#pragma unroll
    for (int i = 0; i < static_cast<int>(kCount * sizeof(T) / 16); ++i)
      reinterpret_cast<uint4*>(where)[i] = reinterpret_cast<const uint4*>(values)[i];
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) where[i] = to<T>(in[i]);
  }
}

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
__device__ inline double warp_sum(double v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}

/// Over a block of kWarps warps; every thread gets it. `shared` [kWarps], free again when all have it.
template <int kWarps, typename V>
__device__ inline V block_sum(V v, V* shared) {
  v = warp_sum(v);
  if constexpr (kWarps == 1) return v;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  V sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += shared[w];
  __syncthreads();
  return sum;
}
template <int kWarps>
__device__ inline float block_max(float v, float* shared) {
  v = warp_max(v);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  float most = shared[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) most = fmaxf(most, shared[w]);
  __syncthreads();
  return most;
}

// Random numbers as worker/random.h has them.
__device__ inline std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
  return value ^ (value >> 31);
}
__device__ inline std::uint64_t combine(std::uint64_t state, std::uint64_t value) {
  return mix(mix(state + 0x9E3779B97F4A7C15ull) ^ value);
}

/// Block `index` of a stream: eight elements of 16 bits, as dropout.h numbers them.
__device__ inline uint4 philox(std::uint64_t key, std::uint64_t lane, std::uint64_t index) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index), c1 = static_cast<std::uint32_t>(index >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(lane), c3 = static_cast<std::uint32_t>(lane >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const std::uint32_t low0 = 0xD2511F53u * c0, high0 = __umulhi(0xD2511F53u, c0);
    const std::uint32_t low1 = 0xCD9E8D57u * c2, high1 = __umulhi(0xCD9E8D57u, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

/// The lane of a site's streams but for the row.
__device__ inline std::uint64_t site_lane(const FinesweepDropout& dropout) {
  const std::int64_t step = dropout.step != nullptr ? *dropout.step : dropout.step_number;
  return combine(combine(combine(0, 3), static_cast<std::uint64_t>(step)), dropout.site);
}
/// Key and lane of a row's stream. `row` is a number of dropout.rows, `site` is site_lane(dropout).
struct StreamPlace {
  std::uint64_t key, lane;
  __device__ StreamPlace(const FinesweepDropout& dropout, std::uint64_t site, std::int32_t row) {
    if (dropout.streams == nullptr) {
      key = dropout.key;
      lane = combine(site, static_cast<std::uint64_t>(static_cast<std::int64_t>(row)));
      return;
    }
    const FinesweepRowStream& of = dropout.streams[row];
    key = of.key;
    lane = combine(combine(combine(combine(0, 3), static_cast<std::uint64_t>(of.step)), dropout.site),
                   static_cast<std::uint64_t>(of.row));
  }
};

/// The 16 bits of element `i` of a block.
__device__ inline std::uint32_t bits_of(const uint4& block, int i) {
  const std::uint32_t low = i & 4 ? block.z : block.x, high = i & 4 ? block.w : block.y;
  const std::uint32_t word = i & 2 ? high : low;
  return i & 1 ? word >> 16 : word & 0xffffu;
}

/// What dropout does to the hidden state of one token.
struct TokenMask {
  std::uint32_t threshold = 0;
  float scale = 1;
  std::uint64_t key = 0, lane = 0, first_block = 0;

  /// `site` as site_lane(dropout); not read where there is no dropout.
  __device__ TokenMask(const FinesweepDropout& dropout, std::uint64_t site, std::int64_t token) {
    threshold = dropout.threshold;
    if (threshold == 0) return;
    scale = dropout.scale;
    const StreamPlace stream(dropout, site, dropout.rows[token]);
    key = stream.key;
    lane = stream.lane;
    first_block = static_cast<std::uint64_t>(static_cast<std::uint32_t>(dropout.places[token])) << 32;
  }
  /// Columns column … column + kCount, of which no vector crosses a block of eight.
  template <int kCount>
  __device__ void apply(float (&values)[kCount], int column) const {
    if (threshold == 0) return;
    const uint4 block = philox(key, lane, first_block + static_cast<unsigned>(column) / 8);
    const int first = kCount == 8 ? 0 : column % 8;
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = bits_of(block, first + i) < threshold ? 0.0f : values[i] * scale;
  }
};

/// The job of a token; of no pack 0.
__device__ inline int job_of(const FinesweepDenominator& denominator, std::int64_t token) {
  if (denominator.jobs == nullptr) return 0;
  const std::int64_t at = denominator.index != nullptr ? denominator.index[token] : token;
  return at < 0 ? -1 : denominator.jobs[at];
}
__device__ inline double value_of(const FinesweepDenominator& denominator, int job) {
  return denominator.device != nullptr ? denominator.device[max(job, 0)] : denominator.number;
}

inline bool aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Calls work(T()) with the type of FinesweepFloat `type`.
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

}  // namespace finesweep::cuda
