#include "worker/kernels/cuda/device.cuh"

// IA3 in a pack: columns times the numbers of the token's job. Forward: bound by memory, 16 bytes a load. Back: a
// block computes 32 columns of one job's tokens, one warp a token, and sums what they add to the job's numbers in a
// fixed order; so a job's gradient depends on its own tokens alone, and no sum on how blocks are scheduled.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = 16, kColumns = 32;

template <typename T, int kCount>
__global__ void forward(const T* x, std::int64_t x_stride, const T* factors, std::int64_t factor_stride,
                        const std::int32_t* token_jobs, T* y, std::int64_t y_stride, std::int64_t vectors,
                        int width) {
  wait_for_predecessor();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int of_token = width / kCount;
  const std::int64_t token = i / of_token;
  const int column = static_cast<int>(i - token * of_token) * kCount, job = token_jobs[token];
  float v[kCount];
  load<kCount>(x + token * x_stride + column, v);
  if (job >= 0) {
    float f[kCount];
    load<kCount>(factors + job * factor_stride + column, f);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] *= f[k];
  }
  store<kCount>(y + token * y_stride + column, v);
}

/// The first of these rows, which are in the order of their jobs, whose job is not before `job`.
__device__ inline int first_row(const std::int32_t* row_jobs, int rows, int job) {
  int begin = 0, end = rows;
  while (begin < end) {
    const int middle = (begin + end) / 2;
    if (row_jobs[middle] < job) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// Block (columns, job); behind the last job, what belongs to no row.
template <typename T>
__global__ void __launch_bounds__(kWarps * 32)
    backward(const T* dy, std::int64_t dy_stride, const T* x, std::int64_t x_stride, const T* factors,
             std::int64_t factor_stride, const std::int32_t* row_jobs, const std::int32_t* starts, int rows,
             int jobs, float* grad, std::int64_t grad_stride, T* dx, std::int64_t dx_stride, int width) {
  __shared__ int range[2];
  __shared__ float sums[kWarps][kColumns];
  const int job = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = blockIdx.x * kColumns + lane;
  const bool of_a_job = job < jobs;
  if (threadIdx.x % 32 == 0 && warp < 2)
    range[warp] = starts[of_a_job ? first_row(row_jobs, rows, job + warp) : rows + warp];
  __syncthreads();
  const float factor = of_a_job && column < width ? from(factors[job * factor_stride + column]) : 1.0f;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (std::int64_t token = range[0] + warp; token < range[1]; token += kWarps) {
      const float d = from(dy[token * dy_stride + column]);
      if (x != nullptr && of_a_job) sum += d * from(x[token * x_stride + column]);
      dx[token * dx_stride + column] = to<T>(d * factor);
    }
  }
  if (grad == nullptr || !of_a_job) return;
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= width) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w][lane];
  grad[job * grad_stride + column] += total;
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_job_scales_forward(const void* x, std::int64_t x_stride, const void* factors,
                                 std::int64_t factor_stride, const std::int32_t* token_jobs, void* y,
                                 std::int64_t y_stride, std::int64_t tokens, std::int64_t width, int type,
                                 void* stream) {
  if (tokens * width == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    constexpr int n = kVector<T>;
    const T *from = static_cast<const T*>(x), *numbers = static_cast<const T*>(factors);
    T* out = static_cast<T*>(y);
    const bool whole = (width | x_stride | factor_stride | y_stride) % n == 0;
    if (whole && aligned(x) && aligned(factors) && aligned(y)) {
      const std::int64_t vectors = tokens * width / n;
      return launch(forward<T, n>, dim3(blocks_for(vectors, kThreads)), kThreads, 0, stream, true, from, x_stride,
                    numbers, factor_stride, token_jobs, out, y_stride, vectors, width);
    }
    return launch(forward<T, 1>, dim3(blocks_for(tokens * width, kThreads)), kThreads, 0, stream, true, from,
                  x_stride, numbers, factor_stride, token_jobs, out, y_stride, tokens * width, width);
  });
}

int finesweep_job_scales_backward(const void* dy, std::int64_t dy_stride, const void* x, std::int64_t x_stride,
                                  const void* factors, std::int64_t factor_stride, const std::int32_t* row_jobs,
                                  const std::int32_t* starts, std::int64_t rows, std::int64_t jobs, float* grad,
                                  std::int64_t grad_stride, void* dx, std::int64_t dx_stride, std::int64_t width,
                                  int type, void* stream) {
  if (rows * width == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const dim3 grid(static_cast<unsigned>((width + kColumns - 1) / kColumns), static_cast<unsigned>(jobs + 1));
    backward<T><<<grid, kWarps * 32, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(dy), dy_stride, static_cast<const T*>(x), x_stride, static_cast<const T*>(factors),
        factor_stride, row_jobs, starts, static_cast<int>(rows), static_cast<int>(jobs), grad, grad_stride,
        static_cast<T*>(dx), dx_stride, static_cast<int>(width));
    return static_cast<int>(cudaGetLastError());
  });
}
}
