#include "worker/kernels/cuda/device.cuh"

// AdamW over every trained tensor of one job, or of the jobs of a pack: a launch for the sums of squares, one that
// makes of them each job's norm, clipping and verdict, one that updates. No number passes through the host.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kChunk = 2048;

/// Where element i of a matrix stands whose rows lie `stride` apart.
__device__ inline std::int64_t place_of(std::int64_t i, std::int64_t columns, std::int64_t stride) {
  if (columns == stride) return i;
  const auto at = static_cast<std::uint32_t>(i), wide = static_cast<std::uint32_t>(columns), row = at / wide;
  return row * stride + (at - row * wide);
}

__global__ void __launch_bounds__(kThreads)
    squares(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks, double* partial) {
  __shared__ double shared[kWarps];
  const FinesweepAdamWChunk chunk = chunks[blockIdx.x];
  const FinesweepAdamWTensor& tensor = tensors[chunk.tensor];
  const int count = static_cast<int>(min(static_cast<std::int64_t>(kChunk), tensor.count - chunk.begin));
  const bool in_one = tensor.grad_stride == tensor.columns;
  const float* grad = tensor.grad + (in_one ? chunk.begin : 0);
  float sum = 0;
  if (!in_one) {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const float g = grad[place_of(chunk.begin + i, tensor.columns, tensor.grad_stride)];
      sum += g * g;
    }
  } else if (count == kChunk && reinterpret_cast<std::uintptr_t>(grad) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < kChunk / (4 * kThreads); ++i) {
      const float4 g = reinterpret_cast<const float4*>(grad)[i * kThreads + threadIdx.x];
      sum += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    }
  } else {
    for (int i = threadIdx.x; i < count; i += kThreads) sum += grad[i] * grad[i];
  }
  const double total = block_sum<kWarps>(static_cast<double>(sum), shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(1024) sum_all(const double* values, std::int64_t count, double* sum) {
  __shared__ double shared[32];
  double mine = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += 1024) mine += values[i];
  mine = block_sum<32>(mine, shared);
  if (threadIdx.x == 0) *sum = mine;
}

/// A block for each job.
__global__ void __launch_bounds__(1024)
    verdict(const double* partial, const FinesweepAdamWJob* jobs, const FinesweepAdamWNumbers* all_numbers,
            double* losses, std::int32_t* broken, FinesweepStepResult* results) {
  __shared__ double shared[32];
  const FinesweepAdamWJob job = jobs[blockIdx.x];
  const FinesweepAdamWNumbers* numbers = all_numbers + blockIdx.x;
  FinesweepStepResult* result = results + blockIdx.x;
  double sum = 0;
  for (std::int64_t i = job.first_chunk + threadIdx.x; i < job.last_chunk; i += 1024) sum += partial[i];
  sum = block_sum<32>(sum, shared);
  if (threadIdx.x != 0) return;
  const double unscale = numbers->unscale, norm = sqrt(sum) * unscale, value = losses[blockIdx.x] * unscale;
  losses[blockIdx.x] = 0;
  result->broken = broken != nullptr ? broken[blockIdx.x] : 0;
  if (broken != nullptr) broken[blockIdx.x] = 0;
  result->loss = value;
  result->grad_norm = norm;
  if (!isfinite(norm) || !isfinite(value) || result->broken != 0) result->finite = 0;
  const double most = numbers->max_norm;
  result->clip = static_cast<float>(unscale * (most > 0 ? fmin(1.0, most / (norm + 1e-6)) : 1.0));
}

__device__ inline void update(float& w, float& m, float& v, float g, float decay, const FinesweepAdamWNumbers& n) {
  m = n.beta1 * m + n.one_minus_beta1 * g;
  v = n.beta2 * v + n.one_minus_beta2 * g * g;
  w = decay * w - n.step_size * m / (sqrtf(v) * n.inverse_root + n.epsilon);
}

/// A number of this type can be it.
__device__ inline bool fits(int type, float w) {
  if (type == kFinesweepBFloat16) return isfinite(from(to<__nv_bfloat16>(w)));
  if (type == kFinesweepFloat16) return isfinite(from(to<__half>(w)));
  return isfinite(w);
}

__device__ inline void write_value(void* value, int type, std::int64_t i, float w) {
  if (type == kFinesweepBFloat16) {
    static_cast<__nv_bfloat16*>(value)[i] = to<__nv_bfloat16>(w);
  } else if (type == kFinesweepFloat16) {
    static_cast<__half*>(value)[i] = to<__half>(w);
  } else {
    static_cast<float*>(value)[i] = w;
  }
}

__global__ void __launch_bounds__(kThreads)
    update_all(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks, int job_count,
               const FinesweepAdamWNumbers* numbers, const FinesweepStepResult* results, std::int32_t* broken) {
  const FinesweepAdamWChunk chunk = chunks[blockIdx.x];
  const FinesweepAdamWTensor tensor = tensors[chunk.tensor];
  const FinesweepAdamWNumbers n = numbers[tensor.job];
  bool finite = true;
  for (int job = 0; job < job_count; ++job) finite &= results[job].finite != 0;
  const float clip = results[tensor.job].clip, decay = tensor.decays ? n.decay : 1.0f;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(kChunk), tensor.count - chunk.begin));
  const bool in_one = tensor.grad_stride == tensor.columns && tensor.value_stride == tensor.columns;
  float *grad = tensor.grad + (in_one ? chunk.begin : 0), *master = tensor.master + chunk.begin;
  float *first = tensor.first + chunk.begin, *second = tensor.second + chunk.begin;
  const std::uintptr_t places = reinterpret_cast<std::uintptr_t>(grad) | reinterpret_cast<std::uintptr_t>(master) |
                                reinterpret_cast<std::uintptr_t>(first) | reinterpret_cast<std::uintptr_t>(second);
  if (in_one && tensor.shared == 0 && count == kChunk && places % 16 == 0) {
    // All loads before the first store: that many bytes are on their way at once.
    constexpr int kPieces = kChunk / (4 * kThreads);
    float4 g[kPieces], w[kPieces], m[kPieces], v[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int at = i * kThreads + threadIdx.x;
      g[i] = reinterpret_cast<const float4*>(grad)[at];
      w[i] = reinterpret_cast<const float4*>(master)[at];
      m[i] = reinterpret_cast<const float4*>(first)[at];
      v[i] = reinterpret_cast<const float4*>(second)[at];
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int at = i * kThreads + threadIdx.x;
      reinterpret_cast<float4*>(grad)[at] = make_float4(0, 0, 0, 0);
      if (!finite) continue;
      update(w[i].x, m[i].x, v[i].x, g[i].x * clip, decay, n);
      update(w[i].y, m[i].y, v[i].y, g[i].y * clip, decay, n);
      update(w[i].z, m[i].z, v[i].z, g[i].z * clip, decay, n);
      update(w[i].w, m[i].w, v[i].w, g[i].w * clip, decay, n);
      reinterpret_cast<float4*>(master)[at] = w[i];
      reinterpret_cast<float4*>(first)[at] = m[i];
      reinterpret_cast<float4*>(second)[at] = v[i];
      if (tensor.value == nullptr) continue;
      const std::int64_t where = chunk.begin + 4 * at;
      if (tensor.type == kFinesweepBFloat16) {
        alignas(8) const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(w[i].x, w[i].y),
                                                   __floats2bfloat162_rn(w[i].z, w[i].w)};
        *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(tensor.value) + where) =
            *reinterpret_cast<const uint2*>(pair);
      } else {
        write_value(tensor.value, tensor.type, where, w[i].x);
        write_value(tensor.value, tensor.type, where + 1, w[i].y);
        write_value(tensor.value, tensor.type, where + 2, w[i].z);
        write_value(tensor.value, tensor.type, where + 3, w[i].w);
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < count; i += kThreads) {
    float& gradient = in_one ? grad[i] : grad[place_of(chunk.begin + i, tensor.columns, tensor.grad_stride)];
    const float g = gradient * clip;
    gradient = 0;
    if (!finite) continue;
    float w = master[i], m = first[i], v = second[i];
    update(w, m, v, g, decay, n);
    master[i] = w;
    first[i] = m;
    second[i] = v;
    if (tensor.value == nullptr) continue;
    if (tensor.shared != 0 && !fits(tensor.type, w)) {
      if (broken != nullptr) broken[tensor.job] = 1;
      w = 0;
    }
    write_value(tensor.value, tensor.type, place_of(chunk.begin + i, tensor.columns, tensor.value_stride), w);
  }
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

std::int64_t finesweep_adamw_chunk() {
  return kChunk;
}

int finesweep_adamw_squares(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks,
                            std::int64_t chunk_count, double* partial, double* total, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const auto blocks = static_cast<unsigned>(chunk_count);
  if (blocks > 0) squares<<<blocks, kThreads, 0, on>>>(tensors, chunks, partial);
  if (total != nullptr) sum_all<<<1, 1024, 0, on>>>(partial, chunk_count, total);
  return cudaGetLastError();
}

int finesweep_adamw_verdict(const double* partial, const FinesweepAdamWJob* jobs, std::int64_t job_count,
                            const FinesweepAdamWNumbers* numbers, double* losses, std::int32_t* broken,
                            FinesweepStepResult* results, void* stream) {
  verdict<<<static_cast<unsigned>(job_count), 1024, 0, static_cast<cudaStream_t>(stream)>>>(
      partial, jobs, numbers, losses, broken, results);
  return cudaGetLastError();
}

int finesweep_adamw_update(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks,
                           std::int64_t chunk_count, std::int64_t job_count, const FinesweepAdamWNumbers* numbers,
                           const FinesweepStepResult* results, std::int32_t* broken, void* stream) {
  if (chunk_count == 0) return cudaSuccess;
  update_all<<<static_cast<unsigned>(chunk_count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      tensors, chunks, static_cast<int>(job_count), numbers, results, broken);
  return cudaGetLastError();
}
}
