#include "worker/kernels/cuda/device.cuh"

// Cross-entropy over a large vocabulary. One block a token. Where a row of logits fits into shared memory it is
// read once and written once: that is the time of the kernel.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kLog2E = 1.4426950408889634f;

struct Arguments {
  void* logits;
  std::int64_t stride;
  const std::int64_t* labels;
  std::int64_t vocabulary;
  int gradient;
  FinesweepDenominator denominator;
  float* losses;
};

__device__ inline float factor_of(const Arguments& a) {
  return static_cast<float>(1 / value_of(a.denominator, job_of(a.denominator, blockIdx.x)));
}

/// A row whose label does not count.
template <typename T>
__device__ void skip(const Arguments& a, T* row) {
  if (a.losses != nullptr && threadIdx.x == 0) a.losses[blockIdx.x] = 0;
  if (!a.gradient) return;
  for (std::int64_t i = threadIdx.x; i < a.stride; i += kThreads) row[i] = to<T>(0.0f);
}

/// Rows of 16-byte vectors, staged in shared memory.
template <typename T>
__global__ void __launch_bounds__(kThreads) staged(const Arguments a) {
  extern __shared__ uint4 stage[];
  __shared__ float shared[kWarps];
  constexpr int n = kVector<T>;
  T* row = static_cast<T*>(a.logits) + blockIdx.x * a.stride;
  const std::int64_t label = a.labels[blockIdx.x];
  if (label < 0) {
    if (threadIdx.x == 0) a.losses[blockIdx.x] = 0;
    if (a.gradient) {
      for (int i = threadIdx.x; i < a.stride / n; i += kThreads)
        reinterpret_cast<uint4*>(row)[i] = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const int vocabulary = static_cast<int>(a.vocabulary), vectors = static_cast<int>(a.stride / n);
  float most = -INFINITY;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    stage[i] = reinterpret_cast<const uint4*>(row)[i];
    float v[n];
    load<n>(reinterpret_cast<const T*>(stage + i), v);
    if ((i + 1) * n <= vocabulary) {
#pragma unroll
      for (int k = 0; k < n; ++k) most = fmaxf(most, v[k]);
    } else {
#pragma unroll
      for (int k = 0; k < n; ++k) {
        if (i * n + k < vocabulary) {
          most = fmaxf(most, v[k]);
        } else {
          v[k] = -INFINITY;
        }
      }
      store<n>(reinterpret_cast<T*>(stage + i), v);
    }
  }
  most = block_max<kWarps>(most, shared);
  const float shift = most * kLog2E;
  float sum = 0;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float v[n];
    load<n>(reinterpret_cast<const T*>(stage + i), v);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += exp2f(fmaf(v[k], kLog2E, -shift));
  }
  sum = block_sum<kWarps>(sum, shared);
  if (threadIdx.x == 0) {
    a.losses[blockIdx.x] = most + logf(sum) - from(reinterpret_cast<const T*>(stage)[label]);
  }
  if (!a.gradient) return;
  const float factor = factor_of(a), share = factor / sum;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float v[n];
    load<n>(reinterpret_cast<const T*>(stage + i), v);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      v[k] = exp2f(fmaf(v[k], kLog2E, -shift)) * share;
      if (i * n + k == label) v[k] -= factor;
    }
    store<n>(row + i * n, v);
  }
}

/// Any row: read three times.
template <typename T>
__global__ void __launch_bounds__(kThreads) streamed(const Arguments a) {
  __shared__ float shared[kWarps];
  T* row = static_cast<T*>(a.logits) + blockIdx.x * a.stride;
  const std::int64_t label = a.labels[blockIdx.x];
  if (label < 0) {
    skip(a, row);
    return;
  }
  float most = -INFINITY;
  for (std::int64_t i = threadIdx.x; i < a.vocabulary; i += kThreads) most = fmaxf(most, from(row[i]));
  most = block_max<kWarps>(most, shared);
  const float shift = most * kLog2E;
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < a.vocabulary; i += kThreads)
    sum += exp2f(fmaf(from(row[i]), kLog2E, -shift));
  sum = block_sum<kWarps>(sum, shared);
  if (threadIdx.x == 0) a.losses[blockIdx.x] = most + logf(sum) - from(row[label]);
  if (!a.gradient) return;
  __syncthreads();
  const float factor = factor_of(a), share = factor / sum;
  for (std::int64_t i = threadIdx.x; i < a.stride; i += kThreads) {
    float v = i < a.vocabulary ? exp2f(fmaf(from(row[i]), kLog2E, -shift)) * share : 0.0f;
    if (i == label) v -= factor;
    row[i] = to<T>(v);
  }
}

/// A block for each job.
__global__ void __launch_bounds__(kThreads)
    add_sum(const float* values, std::int64_t count, FinesweepDenominator denominator, double* total) {
  __shared__ double shared[kWarps];
  const int job = blockIdx.x;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) {
    if (job_of(denominator, i) == job) sum += values[i];
  }
  sum = block_sum<kWarps>(sum, shared);
  if (threadIdx.x == 0) total[job] += sum / value_of(denominator, job);
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_cross_entropy(void* logits, std::int64_t stride, const std::int64_t* labels, std::int64_t tokens,
                            std::int64_t vocabulary, int gradient, FinesweepDenominator denominator, float* losses,
                            int type, void* stream) {
  if (tokens == 0) return cudaSuccess;
  const Arguments a{logits, stride, labels, vocabulary, gradient, denominator, losses};
  const auto on = static_cast<cudaStream_t>(stream);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(T));
    constexpr int kOwn = 1 << 10;  // what the kernel has of its own, and the system's share
    if (bytes % 16 == 0 && aligned(logits) && bytes + kOwn <= shared_memory_limit()) {
      if (const int error = cudaFuncSetAttribute(staged<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(bytes))) {
        return error;
      }
      staged<T><<<static_cast<unsigned>(tokens), kThreads, bytes, on>>>(a);
    } else {
      streamed<T><<<static_cast<unsigned>(tokens), kThreads, 0, on>>>(a);
    }
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_add_sum(const float* values, std::int64_t count, FinesweepDenominator denominator, double* total,
                      void* stream) {
  const auto jobs = static_cast<unsigned>(denominator.jobs != nullptr ? denominator.job_count : 1);
  add_sum<<<jobs, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(values, count, denominator, total);
  return cudaGetLastError();
}
}
