#include "worker/kernels/cuda/device.cuh"

// Distillation over a large vocabulary: one block a token reads a student's and a teacher's logits. Where both rows
// fit into shared memory each is read once, and the student's written once.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct Arguments {
  void* student;
  const void* teacher;
  std::int64_t stride;
  const std::int64_t* labels;
  std::int64_t vocabulary;
  int gradient;
  float inverse_temperature, alpha;
  FinesweepDenominator denominator;
  float* losses;
};

/// A row in vectors of 16 bytes, whose tail beyond the vocabulary counts nothing; in shared memory where it is
/// kept.
template <typename T, bool kStaged>
struct Row {
  const T* global;
  uint4* kept;
  int vocabulary;

  /// The first look at vector i.
  __device__ void first(int i, float (&v)[kVector<T>]) const {
    const uint4 bits = reinterpret_cast<const uint4*>(global)[i];
    if constexpr (kStaged) kept[i] = bits;
    take(bits, i, v);
  }
  __device__ void again(int i, float (&v)[kVector<T>]) const {
    if constexpr (kStaged) {
      take(kept[i], i, v);
    } else {
      take(reinterpret_cast<const uint4*>(global)[i], i, v);
    }
  }

 private:
  __device__ void take(const uint4& bits, int i, float (&v)[kVector<T>]) const {
    constexpr int n = kVector<T>;
    load<n>(reinterpret_cast<const T*>(&bits), v);
    if ((i + 1) * n <= vocabulary) return;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (i * n + k >= vocabulary) v[k] = -INFINITY;
    }
  }
};

template <typename T, bool kStaged>
__global__ void __launch_bounds__(kThreads) distil(const Arguments a) {
  extern __shared__ uint4 stage[];
  __shared__ float shared[kWarps];
  constexpr int n = kVector<T>;
  T* const out = static_cast<T*>(a.student) + blockIdx.x * a.stride;
  const std::int64_t label = a.labels[blockIdx.x];
  const int vectors = static_cast<int>(a.stride / n), vocabulary = static_cast<int>(a.vocabulary);
  if (label < 0) {
    if (threadIdx.x == 0) a.losses[blockIdx.x] = 0;
    if (a.gradient) {
      for (int i = threadIdx.x; i < vectors; i += kThreads)
        reinterpret_cast<uint4*>(out)[i] = make_uint4(0, 0, 0, 0);
    }
    return;
  }
  const Row<T, kStaged> student{out, stage, vocabulary};
  const Row<T, kStaged> teacher{static_cast<const T*>(a.teacher) + blockIdx.x * a.stride, stage + vectors,
                                vocabulary};

  float most_student = -INFINITY, most_teacher = -INFINITY;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float s[n], t[n];
    student.first(i, s);
    teacher.first(i, t);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      most_student = fmaxf(most_student, s[k]);
      most_teacher = fmaxf(most_teacher, t[k]);
    }
  }
  most_student = block_max<kWarps>(most_student, shared);
  most_teacher = block_max<kWarps>(most_teacher, shared);

  // exp(x / T) as 2^(x · soft).
  const float soft = a.inverse_temperature * kLog2E;
  const float hard_shift = most_student * kLog2E, soft_shift = most_student * soft,
              teacher_shift = most_teacher * soft;
  float hard_sum = 0, soft_sum = 0, teacher_sum = 0, weighted = 0;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float s[n], t[n];
    student.again(i, s);
    teacher.again(i, t);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      hard_sum += exp2f(fmaf(s[k], kLog2E, -hard_shift));
      soft_sum += exp2f(fmaf(s[k], soft, -soft_shift));
      const float probability = exp2f(fmaf(t[k], soft, -teacher_shift));
      teacher_sum += probability;
      // Where the teacher gives nothing, nothing is lost: 0 · log 0 = 0.
      if (probability > 0) weighted += probability * (t[k] - s[k]);
    }
  }
  hard_sum = block_sum<kWarps>(hard_sum, shared);
  soft_sum = block_sum<kWarps>(soft_sum, shared);
  teacher_sum = block_sum<kWarps>(teacher_sum, shared);
  weighted = block_sum<kWarps>(weighted, shared);
  const float alpha = a.alpha, temperature = 1 / a.inverse_temperature;
  if (threadIdx.x == 0) {
    const float of_label = from(static_cast<const T*>(out)[label]);
    const float cross_entropy = most_student + logf(hard_sum) - of_label;
    const float divergence = weighted / teacher_sum * a.inverse_temperature +
                             kLn2 * (soft_shift - teacher_shift + log2f(soft_sum) - log2f(teacher_sum));
    a.losses[blockIdx.x] = alpha * temperature * temperature * divergence + (1 - alpha) * cross_entropy;
  }
  if (!a.gradient) return;
  __syncthreads();  // the label's logit has been read
  const float factor = static_cast<float>(1 / value_of(a.denominator, job_of(a.denominator, blockIdx.x)));
  const float hard_share = factor * (1 - alpha) / hard_sum, soft_share = factor * alpha * temperature / soft_sum;
  const float teacher_share = factor * alpha * temperature / teacher_sum;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float s[n], t[n], d[n];
    student.again(i, s);
    teacher.again(i, t);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      d[k] = exp2f(fmaf(s[k], kLog2E, -hard_shift)) * hard_share +
             exp2f(fmaf(s[k], soft, -soft_shift)) * soft_share -
             exp2f(fmaf(t[k], soft, -teacher_shift)) * teacher_share;
      if (i * n + k == label) d[k] -= factor * (1 - alpha);
    }
    store<n>(out + i * n, d);
  }
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" int finesweep_distillation(void* student, const void* teacher, std::int64_t stride,
                                      const std::int64_t* labels, std::int64_t tokens, std::int64_t vocabulary,
                                      int gradient, float temperature, float alpha,
                                      FinesweepDenominator denominator, float* losses, int type, void* stream) {
  if (tokens == 0) return cudaSuccess;
  const Arguments a{student,  teacher,         stride, labels,      vocabulary,
                    gradient, 1 / temperature, alpha,  denominator, losses};
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(T));
    if (bytes % 16 != 0 || !aligned(student) || !aligned(teacher)) return static_cast<int>(cudaErrorInvalidValue);
    const auto blocks = static_cast<unsigned>(tokens);
    const auto on = static_cast<cudaStream_t>(stream);
    constexpr int kOwn = 1 << 10;  // what the kernel has of its own, and the system's share
    if (2 * bytes + kOwn <= shared_memory_limit()) {
      if (const int error = cudaFuncSetAttribute(distil<T, true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(2 * bytes))) {
        return error;
      }
      distil<T, true><<<blocks, kThreads, 2 * bytes, on>>>(a);
    } else {
      distil<T, false><<<blocks, kThreads, 0, on>>>(a);
    }
    return static_cast<int>(cudaGetLastError());
  });
}
