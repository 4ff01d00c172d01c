#include "worker/kernels/cuda/device.cuh"

// Attention as plain products, for what the fused kernels of the libraries cannot do: our dropout masks, biases by
// distance, fp32. Heads are gathered from the packed rows, products are cuBLAS's, what stands between is here.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void gather_heads(const T* matrix, std::int64_t stride, std::int64_t column, int source_heads,
                             const FinesweepHeads h, T* out, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int size = static_cast<int>(h.size), k = static_cast<int>(i % size);
  std::int64_t rest = i / size;
  const int place = static_cast<int>(rest % h.length);
  rest /= h.length;
  const int head = static_cast<int>(rest % h.heads), row = static_cast<int>(rest / h.heads);
  const int begin = h.begin[row], source = head / (static_cast<int>(h.heads) / source_heads);
  T value = to<T>(0.0f);
  if (begin + place < h.end[row]) value = matrix[(begin + place) * stride + column + source * size + k];
  out[i] = value;
}

template <typename T>
__global__ void scatter_heads(const T* from_heads, const FinesweepHeads h, int source_heads, T* matrix,
                              std::int64_t stride, std::int64_t column, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int size = static_cast<int>(h.size), k = static_cast<int>(i % size);
  std::int64_t rest = i / size;
  const int source = static_cast<int>(rest % source_heads);
  rest /= source_heads;
  const int place = static_cast<int>(rest % h.length), row = static_cast<int>(rest / h.length);
  const int begin = h.begin[row];
  if (begin + place >= h.end[row]) return;
  const int group = static_cast<int>(h.heads) / source_heads;
  float sum = 0;
  for (int g = 0; g < group; ++g) {
    const std::int64_t head = static_cast<std::int64_t>(row) * h.heads + source * group + g;
    sum += from(from_heads[(head * h.length + place) * size + k]);
  }
  matrix[(begin + place) * stride + column + source * size + k] = to<T>(sum);
}

/// What a warp knows of its row of scores: one query of one head. Lanes take eight keys each in turn.
struct Query {
  std::int64_t offset;  // of the first score
  int row, head, query;
  int first = 0, last = 0;  // the keys that it sees; none for padding
  int position = 0;
  const float* bias = nullptr;

  __device__ Query(const FinesweepSoftmax& a, std::int64_t number) {
    offset = number * a.keys;
    query = static_cast<int>(number % a.queries);
    const std::int64_t rest = number / a.queries;
    head = static_cast<int>(rest % a.heads);
    row = static_cast<int>(rest / a.heads);
    const int queries = a.query_end[row] - a.query_begin[row], keys = a.key_end[row] - a.key_begin[row];
    if (query >= queries) return;
    position = query + keys - queries;
    last = a.causal ? min(keys, position + 1) : keys;
    if (a.causal && a.window > 0) first = max(0, position + 1 - static_cast<int>(a.window));
    if (a.bias != nullptr) bias = a.bias + head * a.bias_stride + a.bias_zero - position;
  }
  __device__ float score(const float* scores, float scale, int key) const {
    float s = scores[offset + key] * scale;
    if (bias != nullptr) s += bias[key];
    return s;
  }
};

struct Bits {
  std::uint64_t key = 0, lane = 0, first;
  std::uint32_t threshold;
  float scale;
  __device__ Bits(const FinesweepDropout& d, const Query& q) : threshold(d.threshold), scale(d.scale) {
    if (threshold != 0) {
      const StreamPlace stream(d, site_lane(d), d.rows[q.row]);
      key = stream.key;
      lane = stream.lane;
    }
    first = (static_cast<std::uint64_t>(q.head) << 48) + (static_cast<std::uint64_t>(q.query) << 24);
  }
  /// The factors of eight keys.
  __device__ void factors(int keys_from, float (&out)[8]) const {
    if (threshold == 0) {
#pragma unroll
      for (int k = 0; k < 8; ++k) out[k] = 1;
      return;
    }
    const uint4 block = philox(key, lane, first + static_cast<unsigned>(keys_from) / 8);
#pragma unroll
    for (int k = 0; k < 8; ++k) out[k] = bits_of(block, k) < threshold ? 0.0f : scale;
  }
};

/// The largest score of a row and the sum of exponentials.
__device__ inline void reduce(const FinesweepSoftmax& a, const Query& q, const float* scores, int lane, float& most,
                              float& sum) {
  most = -INFINITY;
  for (int k = q.first + lane; k < q.last; k += 32) most = fmaxf(most, q.score(scores, a.scale, k));
  most = warp_max(most);
  sum = 0;
  for (int k = q.first + lane; k < q.last; k += 32) sum += __expf(q.score(scores, a.scale, k) - most);
  sum = warp_sum(sum);
}

template <typename T>
__global__ void softmax_forward(const FinesweepSoftmax a, const float* scores, T* probabilities,
                                const FinesweepDropout dropout, std::int64_t count) {
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (number >= count) return;
  const Query q(a, number);
  float most, sum;
  reduce(a, q, scores, lane, most, sum);
  const float inverse = sum > 0 ? 1 / sum : 0;
  const Bits bits(dropout, q);
  for (int begin = lane * 8; begin < a.keys; begin += 256) {
    float factor[8];
    bits.factors(begin, factor);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int key = begin + k;
      if (key >= a.keys) break;
      const bool seen = key >= q.first && key < q.last;
      const float p = seen ? __expf(q.score(scores, a.scale, key) - most) * inverse * factor[k] : 0.0f;
      probabilities[q.offset + key] = to<T>(p);
    }
  }
}

template <typename T>
__global__ void softmax_backward(const FinesweepSoftmax a, const float* scores, const float* d_probabilities,
                                 T* probabilities, T* d_scores, float* d_bias, const FinesweepDropout dropout,
                                 std::int64_t count) {
  const std::int64_t number = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (number >= count) return;
  const Query q(a, number);
  float most, sum;
  reduce(a, q, scores, lane, most, sum);
  const float inverse = sum > 0 ? 1 / sum : 0;
  const Bits bits(dropout, q);
  // Σ p · dp: what the gradient of each probability is compared with.
  float inner = 0;
  for (int begin = lane * 8; begin < q.last; begin += 256) {
    float factor[8];
    bits.factors(begin, factor);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int key = begin + k;
      if (key < q.first || key >= q.last) continue;
      const float p = __expf(q.score(scores, a.scale, key) - most) * inverse;
      inner += p * factor[k] * d_probabilities[q.offset + key];
    }
  }
  inner = warp_sum(inner);
  for (int begin = lane * 8; begin < a.keys; begin += 256) {
    float factor[8];
    bits.factors(begin, factor);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int key = begin + k;
      if (key >= a.keys) break;
      float p = 0, d = 0;
      if (key >= q.first && key < q.last) {
        p = __expf(q.score(scores, a.scale, key) - most) * inverse;
        d = p * (factor[k] * d_probabilities[q.offset + key] - inner);
        if (d_bias != nullptr) atomicAdd(d_bias + q.head * a.bias_stride + a.bias_zero + key - q.position, d);
      }
      probabilities[q.offset + key] = to<T>(p * factor[k]);
      d_scores[q.offset + key] = to<T>(d * a.scale);
    }
  }
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_gather_heads(const void* matrix, std::int64_t stride, std::int64_t column, std::int64_t source_heads,
                           const FinesweepHeads* heads, void* out, int type, void* stream) {
  const std::int64_t count = heads->rows * heads->heads * heads->length * heads->size;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    gather_heads<T><<<blocks_for(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(matrix), stride, column, static_cast<int>(source_heads), *heads, static_cast<T*>(out),
        count);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_scatter_heads(const void* from_heads, const FinesweepHeads* heads, std::int64_t source_heads,
                            void* matrix, std::int64_t stride, std::int64_t column, int type, void* stream) {
  const std::int64_t count = heads->rows * source_heads * heads->length * heads->size;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    scatter_heads<T><<<blocks_for(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(from_heads), *heads, static_cast<int>(source_heads), static_cast<T*>(matrix), stride,
        column, count);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_softmax_forward(const FinesweepSoftmax* what, const float* scores, void* probabilities,
                              const FinesweepDropout* dropout, int type, void* stream) {
  const std::int64_t count = what->rows * what->heads * what->queries;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    softmax_forward<T><<<blocks_for(count, kThreads / 32), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *what, scores, static_cast<T*>(probabilities), *dropout, count);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_softmax_backward(const FinesweepSoftmax* what, const float* scores, const float* d_probabilities,
                               void* probabilities, void* d_scores, float* d_bias, const FinesweepDropout* dropout,
                               int type, void* stream) {
  const std::int64_t count = what->rows * what->heads * what->queries;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    softmax_backward<T><<<blocks_for(count, kThreads / 32), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *what, scores, d_probabilities, static_cast<T*>(probabilities), static_cast<T*>(d_scores), d_bias, *dropout,
        count);
    return static_cast<int>(cudaGetLastError());
  });
}
}
