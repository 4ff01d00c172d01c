#include <algorithm>

#include "worker/kernels/cuda/device.cuh"

// Rows of tables and of tokens: embeddings and pooling.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 256;

struct Tables {
  const void* table[3];
  const std::int64_t* id[3];
};

template <typename T, int kCount>
__global__ void gather_rows(const Tables tables, T* out, std::int64_t vectors, std::int64_t width) {
  wait_for_predecessor();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const std::int64_t token = i * kCount / width, column = i * kCount - token * width;
  float sum[kCount] = {};
#pragma unroll
  for (int t = 0; t < 3; ++t) {
    if (tables.table[t] == nullptr || tables.id[t][token] < 0) continue;
    float v[kCount];
    load<kCount>(static_cast<const T*>(tables.table[t]) + tables.id[t][token] * width + column, v);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += v[k];
  }
  store<kCount>(out + i * kCount, sum);
}

/// A token each block, a 16-byte piece of it a thread. Widths, distances in bytes.
template <typename T>
__device__ void copy_matrix(const FinesweepMatrixCopy& c) {
  T* to = static_cast<T*>(c.to);
  const std::int64_t count = c.rows * c.columns, step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const std::int64_t row = i / c.columns, column = i - row * c.columns;
    to[row * c.to_stride + column] = cuda::to<T>(c.from[row * c.from_stride + column]);
  }
}

/// A row of blocks for each.
__global__ void copy_matrices(const FinesweepMatrixCopy* copies) {
  const FinesweepMatrixCopy c = copies[blockIdx.y];
  if (c.type == kFinesweepBFloat16) {
    copy_matrix<__nv_bfloat16>(c);
  } else if (c.type == kFinesweepFloat16) {
    copy_matrix<__half>(c);
  } else {
    copy_matrix<float>(c);
  }
}

__global__ void concatenate(const char* first, const char* second, const char* third, std::int64_t first_stride,
                            std::int64_t second_stride, std::int64_t third_stride, int first_width, int two_widths,
                            int width, char* to, std::int64_t to_stride) {
  wait_for_predecessor();
  const std::int64_t token = blockIdx.x;
  for (int column = static_cast<int>(threadIdx.x) * 16; column < width;
       column += static_cast<int>(blockDim.x) * 16) {
    const char* from = column < first_width  ? first + token * first_stride + column
                       : column < two_widths ? second + token * second_stride + (column - first_width)
                                             : third + token * third_stride + (column - two_widths);
    *reinterpret_cast<uint4*>(to + token * to_stride + column) = *reinterpret_cast<const uint4*>(from);
  }
}

template <typename T>
__global__ void add_rows(const T* d, const std::int64_t* ids, std::int64_t skipped, float* grad, std::int64_t count,
                         std::int64_t width) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const std::int64_t token = i / width, id = ids[token];
  if (id == skipped) return;
  const float value = from(d[i]);
  if (value != 0) atomicAdd(grad + id * width + (i - token * width), value);
}

template <typename T, int kCount>
__global__ void scatter_rows(const T* from_rows, const std::int64_t* index, T* out, std::int64_t vectors,
                             std::int64_t width) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const std::int64_t row = i * kCount / width, column = i * kCount - row * width;
  if (index[row] < 0) return;
  float v[kCount];
  load<kCount>(from_rows + i * kCount, v);
  store<kCount>(out + index[row] * width + column, v);
}

template <typename T>
__global__ void mean_forward(const T* x, const std::int32_t* starts, T* y, std::int64_t width) {
  const std::int64_t row = blockIdx.y, column = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const std::int32_t begin = starts[row], end = starts[row + 1];
  __shared__ float sums[8][32];
  float sum = 0;
  if (column < width) {
    for (std::int32_t t = begin + threadIdx.y; t < end; t += 8) sum += from(x[t * width + column]);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  y[row * width + column] = to<T>(sum / static_cast<float>(end - begin));
}

template <typename T>
__global__ void mean_backward(const T* dy, const std::int32_t* starts, T* dx, std::int64_t width) {
  const std::int64_t row = blockIdx.y, column = static_cast<std::int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (column >= width) return;
  const std::int32_t begin = starts[row], end = starts[row + 1];
  const T share = to<T>(from(dy[row * width + column]) / static_cast<float>(end - begin));
  for (std::int32_t t = begin + threadIdx.y; t < end; t += 8) dx[t * width + column] = share;
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_gather_rows(const void* const tables[3], const std::int64_t* const ids[3], void* out,
                          std::int64_t tokens, std::int64_t width, int type, void* stream) {
  if (tokens * width == 0) return cudaSuccess;
  Tables all;
  bool together = aligned(out);
  for (int t = 0; t < 3; ++t) {
    all.table[t] = tables[t];
    all.id[t] = ids[t];
    together = together && aligned(tables[t]);
  }
  const auto on = static_cast<cudaStream_t>(stream);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    constexpr int n = kVector<T>;
    const std::int64_t count = tokens * width;
    if (together && width % n == 0) {
      return launch(gather_rows<T, n>, dim3(blocks_for(count / n, kThreads)), kThreads, 0, on, true, all,
                    static_cast<T*>(out), count / n, width);
    }
    return launch(gather_rows<T, 1>, dim3(blocks_for(count, kThreads)), kThreads, 0, on, true, all,
                  static_cast<T*>(out), count, width);
  });
}

int finesweep_add_rows(const void* d, const std::int64_t* ids, std::int64_t skipped, float* grad,
                       std::int64_t tokens, std::int64_t width, int type, void* stream) {
  const std::int64_t count = tokens * width;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    add_rows<T><<<blocks_for(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(d), ids, skipped, grad, count, width);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_scatter_rows(const void* from_rows, const std::int64_t* index, void* out, std::int64_t count,
                           std::int64_t width, int type, void* stream) {
  const std::int64_t all = count * width;
  if (all == 0) return cudaSuccess;
  const auto on = static_cast<cudaStream_t>(stream);
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    constexpr int n = kVector<T>;
    const T* source = static_cast<const T*>(from_rows);
    if (width % n == 0 && aligned(from_rows) && aligned(out)) {
      scatter_rows<T, n>
          <<<blocks_for(all / n, kThreads), kThreads, 0, on>>>(source, index, static_cast<T*>(out), all / n, width);
    } else {
      scatter_rows<T, 1>
          <<<blocks_for(all, kThreads), kThreads, 0, on>>>(source, index, static_cast<T*>(out), all, width);
    }
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_mean_forward(const void* x, const std::int32_t* starts, void* y, std::int64_t rows,
                           std::int64_t width, int type, void* stream) {
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const dim3 grid(blocks_for(width, 32), static_cast<unsigned>(rows));
    mean_forward<T><<<grid, dim3(32, 8), 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const T*>(x), starts,
                                                                                 static_cast<T*>(y), width);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_mean_backward(const void* dy, const std::int32_t* starts, void* dx, std::int64_t rows,
                            std::int64_t width, int type, void* stream) {
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    const dim3 grid(blocks_for(width, 32), static_cast<unsigned>(rows));
    mean_backward<T><<<grid, dim3(32, 8), 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const T*>(dy), starts,
                                                                                  static_cast<T*>(dx), width);
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_copy_matrices(const FinesweepMatrixCopy* copies, std::int64_t count, void* stream) {
  constexpr std::int64_t most = 65535;  // of a grid's second dimension
  for (std::int64_t first = 0; first < count; first += most) {
    const dim3 grid(8, static_cast<unsigned>(std::min(most, count - first)));
    copy_matrices<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(copies + first);
  }
  return cudaGetLastError();
}

int finesweep_concatenate(const FinesweepColumns* columns, void* to, std::int64_t to_stride, std::int64_t tokens,
                          int type, void* stream) {
  if (tokens == 0) return cudaSuccess;
  const std::int64_t bytes = type == kFinesweepFloat32 ? 4 : 2;
  const FinesweepColumns& c = *columns;
  const auto from = [&](int i) { return static_cast<const char*>(c.from[i]); };
  const auto first = static_cast<int>(c.width[0] * bytes), two = first + static_cast<int>(c.width[1] * bytes);
  const int width = two + static_cast<int>(c.width[2] * bytes);
  const unsigned threads = std::min(512u, blocks_for(width, 512) * 32);
  return launch(concatenate, dim3(static_cast<unsigned>(tokens)), static_cast<int>(threads), 0, stream, true,
                from(0), from(1), from(2), c.stride[0] * bytes, c.stride[1] * bytes, c.stride[2] * bytes, first,
                two, width, static_cast<char*>(to), to_stride * bytes);
}
}
