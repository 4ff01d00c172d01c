// Attention of one new token a row. Bound by reading the row's keys and values once, and before that by latency: a
// group of lanes holds a key (16 bytes a lane), and each group asks for several keys and values before it uses the
// first. Groups keep softmaxes of their own, which are joined at the end: within warps, within the block, and,
// where few long rows are split over blocks, by the block that ends last.

#include "worker/kernels/cuda/decode.cuh"

namespace {

using namespace finesweep_decode;

constexpr int kMostSize = 256;
constexpr float kLog2E = 1.4426950408889634f;

/// A softmax that is not whole yet: the sum of exp2(score - greatest) and of those times the values.
template <int kValues>
struct Mix {
  float greatest = -INFINITY, sum = 0;
  float values[kValues] = {};

  __device__ void join(float other_greatest, float other_sum, const float (&other)[kValues]) {
    const float most = fmaxf(greatest, other_greatest);
    const float mine = greatest == -INFINITY ? 0.0f : exp2f(greatest - most);
    const float theirs = other_greatest == -INFINITY ? 0.0f : exp2f(other_greatest - most);
    greatest = most;
    sum = sum * mine + other_sum * theirs;
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = values[i] * mine + other[i] * theirs;
  }
};

/// This lane's values of a head of qkv, turned to the row's position and rounded as the cache rounds.
template <typename T>
__device__ inline void read_head(const FinesweepDecodeAttention& p, const T* head, int column, bool turned,
                                 std::int64_t position, float (&values)[kVector<T>]) {
  constexpr int kValues = kVector<T>;
  unpack<T>(*reinterpret_cast<const uint4*>(head + column), values);
  if (!turned || p.cosine == nullptr) return;
  const int half = static_cast<int>(p.size) / 2;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int at = column + i;
    const bool second = at >= half;
    const int pair = second ? at - half : at;
    const float cosine = p.cosine[position * half + pair], sine = p.sine[position * half + pair];
    const float other = to_float(head[second ? pair : pair + half]);
    values[i] = to_float(from_float<T>(values[i] * cosine + (second ? other * sine : -other * sine)));
  }
}

/// kKeys are under way in a group; kBlocks fit a processor.
template <typename T, int kLanes, int kThreads, int kKeys, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) attend(const FinesweepDecodeAttention p) {
  constexpr int kValues = kVector<T>, kGroups = kThreads / kLanes, kWarps = kThreads / 32;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes, column = lane * kValues;
  const int warp = threadIdx.x / 32, size = static_cast<int>(p.size), splits = static_cast<int>(p.splits);
  const int row = blockIdx.x / static_cast<int>(p.heads), head = blockIdx.x % static_cast<int>(p.heads);
  const int per_key_head = static_cast<int>(p.heads / p.key_heads), key_head = head / per_key_head;
  const long key_width = p.key_heads * p.size, line = 2 * key_width;
  const bool holds = column < size;
  T* cache = static_cast<T*>(p.cache) + static_cast<long>(row) * p.capacity * line + key_head * p.size;

  let_successor_begin();
  if (p.settled == 0) wait_for_predecessor();
  const int length = static_cast<int>(p.lengths[row]);
  // The keys before the new one, a stretch of them for each split.
  const int window = static_cast<int>(p.window);
  const int oldest = window > 0 && length + 1 > window ? length + 1 - window : 0;
  const int stretch = (length - oldest + splits - 1) / splits;
  const int begin = oldest + blockIdx.y * stretch, end = min(length, begin + stretch);
  uint4 keys[kKeys], values[kKeys];
  const auto fetch = [&](int base) {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int key = base + i * kGroups + group;
      keys[i] = values[i] = make_uint4(0, 0, 0, 0);
      if (!holds || key >= end) continue;
      const T* place = cache + key * line + column;
      keys[i] = *reinterpret_cast<const uint4*>(place);
      values[i] = *reinterpret_cast<const uint4*>(place + key_width);
    }
  };
  fetch(begin);
  if (p.settled != 0) wait_for_predecessor();

  const T* qkv = static_cast<const T*>(p.qkv) + static_cast<long>(row) * (p.heads * p.size + line);
  const T* new_key = qkv + p.heads * p.size + key_head * p.size;
  float query[kValues] = {};
  if (holds) {
    read_head<T>(p, qkv + static_cast<long>(head) * size, column, true, length, query);
#pragma unroll
    for (int i = 0; i < kValues; ++i) query[i] *= p.scale * kLog2E;
  }
  // The new key and value belong to group 0 of the last split.
  const bool has_new = static_cast<int>(blockIdx.y) + 1 == splits && warp == 0;
  float fresh_key[kValues] = {};
  uint4 fresh_value = make_uint4(0, 0, 0, 0);
  if (has_new && holds) {
    read_head<T>(p, new_key, column, true, length, fresh_key);
    fresh_value = *reinterpret_cast<const uint4*>(new_key + key_width + column);
  }
  const auto score_of = [&](const float(&key)[kValues]) {
    float score = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) score += query[i] * key[i];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
    return score;
  };

  Mix<kValues> mix;
  for (int base = begin; base < end; base += kGroups * kKeys) {
    float scores[kKeys], most = mix.greatest;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      scores[i] = -INFINITY;
      if (base + i * kGroups >= end) break;  // for all groups
      float key[kValues];
      unpack<T>(keys[i], key);
      scores[i] = score_of(key);
      if (base + i * kGroups + group >= end) scores[i] = -INFINITY;
      most = fmaxf(most, scores[i]);
    }
    if (most > -INFINITY) {
      const float kept = mix.greatest == -INFINITY ? 0.0f : exp2f(mix.greatest - most);
      mix.greatest = most;
      mix.sum *= kept;
#pragma unroll
      for (int k = 0; k < kValues; ++k) mix.values[k] *= kept;
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        if (base + i * kGroups >= end) break;
        const float share = exp2f(scores[i] - most);
        mix.sum += share;
        float value[kValues];
        unpack<T>(values[i], value);
#pragma unroll
        for (int k = 0; k < kValues; ++k) mix.values[k] += share * value[k];
      }
    }
    fetch(base + kGroups * kKeys);
  }
  if (has_new) {
    const float score = score_of(fresh_key);
    if (group == 0) {
      float value[kValues];
      unpack<T>(fresh_value, value);
      mix.join(score, 1.0f, value);
      if (holds && head % per_key_head == 0) {
        T* place = cache + length * line + column;
        *reinterpret_cast<uint4*>(place) = pack<T>(fresh_key);
        *reinterpret_cast<uint4*>(place + key_width) = fresh_value;
      }
    }
  }

#pragma unroll
  for (int step = kLanes; step < 32; step *= 2) {
    float other[kValues];
    const float greatest = __shfl_xor_sync(0xffffffffu, mix.greatest, step);
    const float sum = __shfl_xor_sync(0xffffffffu, mix.sum, step);
#pragma unroll
    for (int k = 0; k < kValues; ++k) other[k] = __shfl_xor_sync(0xffffffffu, mix.values[k], step);
    mix.join(greatest, sum, other);
  }
  __shared__ float greatest[kWarps], sums[kWarps], mixed[kWarps][kLanes * kValues];
  if (threadIdx.x % 32 < kLanes) {
    if (lane == 0) {
      greatest[warp] = mix.greatest;
      sums[warp] = mix.sum;
    }
#pragma unroll
    for (int k = 0; k < kValues; ++k) mixed[warp][column + k] = mix.values[k];
  }
  __syncthreads();
  float most = -INFINITY;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) most = fmaxf(most, greatest[w]);
  float shares[kWarps], sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    shares[w] = greatest[w] == -INFINITY ? 0.0f : exp2f(greatest[w] - most);
    sum += shares[w] * sums[w];
  }
  T* out = static_cast<T*>(p.out) + static_cast<long>(row) * p.heads * p.size + static_cast<long>(head) * size;
  float* partial = splits == 1 ? nullptr : p.partial + static_cast<long>(blockIdx.x) * splits * (size + 2);
  float* mine = splits == 1 ? nullptr : partial + static_cast<long>(blockIdx.y) * (size + 2);
  for (int at = threadIdx.x; at < size; at += kThreads) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += shares[w] * mixed[w][at];
    if (splits == 1) {
      out[at] = from_float<T>(total / sum);
    } else {
      mine[at] = total;
    }
  }
  if (splits == 1) return;

  if (threadIdx.x == 0) {
    mine[size] = most;
    mine[size + 1] = sum;
  }
  __threadfence();
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(p.arrived + blockIdx.x, 1) == splits - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  most = -INFINITY;
  for (int s = 0; s < splits; ++s) most = fmaxf(most, __ldcg(partial + s * (size + 2) + size));
  for (int at = threadIdx.x; at < size; at += kThreads) {
    float total = 0;
    sum = 0;
    for (int s = 0; s < splits; ++s) {
      const float* part = partial + s * (size + 2);
      const float its = __ldcg(part + size), share = its == -INFINITY ? 0.0f : exp2f(its - most);
      sum += share * __ldcg(part + size + 1);
      total += share * __ldcg(part + at);
    }
    out[at] = from_float<T>(total / sum);
  }
  if (threadIdx.x == 0) p.arrived[blockIdx.x] = 0;
}

template <typename T, int kLanes>
int launch_attention(const FinesweepDecodeAttention& p, void* stream) {
  const dim3 grid(static_cast<unsigned>(p.rows * p.heads), static_cast<unsigned>(p.splits));
  // Few blocks: what counts is how soon each is done.
  if (static_cast<std::int64_t>(grid.x) * grid.y <= 2 * device_facts().processors) {
    return launch(attend<T, kLanes, 256, 4, 2>, grid, 256, 0, stream, true, p);
  }
  // Many: that all run at once, for which a thread has fewer registers than it could use.
  return launch(attend<T, kLanes, 128, 4, 6>, grid, 128, 0, stream, true, p);
}

}  // namespace

extern "C" int finesweep_decode_attention(const FinesweepDecodeAttention* problem, void* stream) {
  const FinesweepDecodeAttention& p = *problem;
  return with_type(p.type, [&](auto tag) -> int {
    using T = decltype(tag);
    constexpr int kValues = kVector<T>;
    if (p.size % kValues != 0 || p.size > 32 * kValues || p.size > kMostSize || p.key_heads < 1 ||
        p.heads % p.key_heads != 0 || p.splits < 1 || p.rows < 1 || (p.cosine != nullptr && p.size % 2 != 0)) {
      return cudaErrorInvalidValue;
    }
    const std::int64_t lanes = p.size / kValues;
    if (lanes <= 4) return launch_attention<T, 4>(p, stream);
    if (lanes <= 8) return launch_attention<T, 8>(p, stream);
    if (lanes <= 16) return launch_attention<T, 16>(p, stream);
    return launch_attention<T, 32>(p, stream);
  });
}
