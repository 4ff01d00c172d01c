#include "worker/kernels/cuda/activation.cuh"
#include "worker/kernels/cuda/device.cuh"

// Dropout, the columns of a pack's jobs, activations, gates and rotary embeddings: bound by memory, 16 bytes a
// load.

namespace finesweep::cuda {
namespace {

constexpr int kThreads = 256;

// ---- dropout

template <typename T, int kCount>
__global__ void dropout_kernel(const T* x, const T* residual, T* y, std::int64_t vectors, int width,
                               const FinesweepDropout dropout) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int of_token = width / kCount;
  const std::int64_t token = i / of_token;
  const int column = static_cast<int>(i - token * of_token) * kCount;
  const TokenMask mask(dropout, dropout.threshold != 0 ? site_lane(dropout) : 0, token);
  float v[kCount];
  load<kCount>(x + i * kCount, v);
  mask.apply(v, column);
  if (residual != nullptr) {
    float r[kCount];
    load<kCount>(residual + i * kCount, r);
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] += r[k];
  }
  store<kCount>(y + i * kCount, v);
}

// ---- a pack's jobs

template <typename T, int kCount>
__global__ void own_columns(T* x, std::int64_t vectors, int columns, std::int64_t stride,
                            const std::int32_t* token_jobs, const std::int32_t* column_jobs, const float* scales,
                            std::int32_t* broken) {
  wait_for_predecessor();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int of_token = columns / kCount;
  const std::int64_t token = i / of_token;
  const int first = static_cast<int>(i - token * of_token) * kCount, job = token_jobs[token];
  float v[kCount];
  T* const at = x + token * stride + first;
  load<kCount>(at, v);
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const bool own = job >= 0 && column_jobs[first + k] == job;
    v[k] = own ? v[k] * scales[first + k] : 0.0f;
    finite &= isfinite(from(to<T>(v[k])));
  }
  store<kCount>(at, v);
  if (broken != nullptr && !finite) broken[job] = 1;
}

// ---- activations

template <typename T, int kActivation, int kCount>
__global__ void forward(const T* z, T* y, std::int64_t vectors) {
  wait_for_predecessor();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  float v[kCount];
  load<kCount>(z + i * kCount, v);
#pragma unroll
  for (int k = 0; k < kCount; ++k) v[k] = act<kActivation>(v[k]);
  store<kCount>(y + i * kCount, v);
}

template <typename T, int kActivation, int kCount>
__global__ void backward(const T* z, const T* dy, T* dz, std::int64_t vectors) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  float v[kCount], d[kCount];
  load<kCount>(z + i * kCount, v);
  load<kCount>(dy + i * kCount, d);
#pragma unroll
  for (int k = 0; k < kCount; ++k) d[k] *= act_gradient<kActivation>(v[k]);
  store<kCount>(dz + i * kCount, d);
}

template <typename T, int kActivation, int kCount>
__global__ void gate_forward(const T* z, T* y, std::int64_t vectors, std::int64_t inner) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const std::int64_t token = i * kCount / inner, column = i * kCount - token * inner;
  float a[kCount], b[kCount];
  load<kCount>(z + token * 2 * inner + column, a);
  load<kCount>(z + token * 2 * inner + inner + column, b);
#pragma unroll
  for (int k = 0; k < kCount; ++k) a[k] = act<kActivation>(a[k]) * b[k];
  store<kCount>(y + i * kCount, a);
}

template <typename T, int kActivation, int kCount>
__global__ void gate_backward(const T* z, const T* dy, T* dz, std::int64_t vectors, std::int64_t inner) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const std::int64_t token = i * kCount / inner, column = i * kCount - token * inner;
  const std::int64_t first = token * 2 * inner + column;
  float a[kCount], b[kCount], d[kCount];
  load<kCount>(z + first, a);
  load<kCount>(z + first + inner, b);
  load<kCount>(dy + i * kCount, d);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    const float through = d[k] * b[k] * act_gradient<kActivation>(a[k]);
    b[k] = d[k] * act<kActivation>(a[k]);
    a[k] = through;
  }
  store<kCount>(dz + first, a);
  store<kCount>(dz + first + inner, b);
}

template <typename Work>
int with_any_activation(int activation, const Work& work) {
  return with_activation<kActivationGelu, kActivationGeluTanh, kActivationRelu, kActivationTanh, kActivationSilu>(
      activation, work);
}

// ---- rotary

template <typename T>
__global__ void rotate(T* x, std::int64_t pairs, std::int64_t stride, int heads, int half, const float* cosine,
                       const float* sine, const std::int64_t* positions, float sign) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= pairs) return;
  const std::int64_t of_token = static_cast<std::int64_t>(heads) * half;
  const std::int64_t token = i / of_token;
  const int rest = static_cast<int>(i - token * of_token), head = rest / half, k = rest - head * half;
  const std::int64_t angle = positions[token] * half + k;
  const float c = cosine[angle], s = sign * sine[angle];
  T* first = x + token * stride + head * 2 * half + k;
  const float a = from(first[0]), b = from(first[half]);
  first[0] = to<T>(a * c - b * s);
  first[half] = to<T>(b * c + a * s);
}

}  // namespace
}  // namespace finesweep::cuda

using namespace finesweep::cuda;

extern "C" {

int finesweep_dropout(const void* x, const void* residual, void* y, std::int64_t tokens, std::int64_t width,
                      const FinesweepDropout* dropout, int type, void* stream) {
  if (tokens * width == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    constexpr int n = kVector<T>;
    const auto on = static_cast<cudaStream_t>(stream);
    const T *from = static_cast<const T*>(x), *add = static_cast<const T*>(residual);
    T* out = static_cast<T*>(y);
    if (width % n == 0 && aligned(x) && aligned(residual) && aligned(y)) {
      const std::int64_t vectors = tokens * width / n;
      dropout_kernel<T, n><<<blocks_for(vectors, kThreads), kThreads, 0, on>>>(from, add, out, vectors,
                                                                               static_cast<int>(width), *dropout);
    } else {
      const std::int64_t count = tokens * width;
      dropout_kernel<T, 1><<<blocks_for(count, kThreads), kThreads, 0, on>>>(from, add, out, count,
                                                                             static_cast<int>(width), *dropout);
    }
    return static_cast<int>(cudaGetLastError());
  });
}

int finesweep_activation_forward(int activation, const void* z, void* y, std::int64_t count, int type,
                                 void* stream) {
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    return with_any_activation(activation, [&](auto kind) {
      constexpr int n = kVector<T>, k = decltype(kind)::value;
      const auto on = static_cast<cudaStream_t>(stream);
      const T* from = static_cast<const T*>(z);
      T* out = static_cast<T*>(y);
      if (count % n == 0 && aligned(z) && aligned(y)) {
        return launch(forward<T, k, n>, dim3(blocks_for(count / n, kThreads)), kThreads, 0, on, true, from, out,
                      count / n);
      }
      return launch(forward<T, k, 1>, dim3(blocks_for(count, kThreads)), kThreads, 0, on, true, from, out, count);
    });
  });
}

int finesweep_activation_backward(int activation, const void* z, const void* dy, void* dz, std::int64_t count,
                                  int type, void* stream) {
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    return with_any_activation(activation, [&](auto kind) {
      constexpr int n = kVector<T>, k = decltype(kind)::value;
      const auto on = static_cast<cudaStream_t>(stream);
      const T *from = static_cast<const T*>(z), *d = static_cast<const T*>(dy);
      T* out = static_cast<T*>(dz);
      if (count % n == 0 && aligned(z) && aligned(dy) && aligned(dz)) {
        backward<T, k, n><<<blocks_for(count / n, kThreads), kThreads, 0, on>>>(from, d, out, count / n);
      } else {
        backward<T, k, 1><<<blocks_for(count, kThreads), kThreads, 0, on>>>(from, d, out, count);
      }
      return static_cast<int>(cudaGetLastError());
    });
  });
}

int finesweep_gate_forward(int activation, const void* z, void* y, std::int64_t tokens, std::int64_t inner,
                           int type, void* stream) {
  if (tokens * inner == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    return with_any_activation(activation, [&](auto kind) {
      constexpr int n = kVector<T>, k = decltype(kind)::value;
      const auto on = static_cast<cudaStream_t>(stream);
      const T* from = static_cast<const T*>(z);
      T* out = static_cast<T*>(y);
      const std::int64_t count = tokens * inner;
      if (inner % n == 0 && aligned(z) && aligned(y)) {
        gate_forward<T, k, n><<<blocks_for(count / n, kThreads), kThreads, 0, on>>>(from, out, count / n, inner);
      } else {
        gate_forward<T, k, 1><<<blocks_for(count, kThreads), kThreads, 0, on>>>(from, out, count, inner);
      }
      return static_cast<int>(cudaGetLastError());
    });
  });
}

int finesweep_gate_backward(int activation, const void* z, const void* dy, void* dz, std::int64_t tokens,
                            std::int64_t inner, int type, void* stream) {
  if (tokens * inner == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    return with_any_activation(activation, [&](auto kind) {
      constexpr int n = kVector<T>, k = decltype(kind)::value;
      const auto on = static_cast<cudaStream_t>(stream);
      const T *from = static_cast<const T*>(z), *d = static_cast<const T*>(dy);
      T* out = static_cast<T*>(dz);
      const std::int64_t count = tokens * inner;
      if (inner % n == 0 && aligned(z) && aligned(dy) && aligned(dz)) {
        gate_backward<T, k, n>
            <<<blocks_for(count / n, kThreads), kThreads, 0, on>>>(from, d, out, count / n, inner);
      } else {
        gate_backward<T, k, 1><<<blocks_for(count, kThreads), kThreads, 0, on>>>(from, d, out, count, inner);
      }
      return static_cast<int>(cudaGetLastError());
    });
  });
}

int finesweep_own_columns(void* x, std::int64_t tokens, std::int64_t columns, std::int64_t stride,
                          const std::int32_t* token_jobs, const std::int32_t* column_jobs, const float* scales,
                          std::int32_t* broken, int type, void* stream) {
  if (tokens * columns == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    constexpr int n = kVector<T>;
    const auto on = static_cast<cudaStream_t>(stream);
    const std::int64_t count = tokens * columns;
    T* values = static_cast<T*>(x);
    const int width = static_cast<int>(columns);
    if (columns % n == 0 && stride % n == 0 && aligned(x)) {
      return launch(own_columns<T, n>, dim3(blocks_for(count / n, kThreads)), kThreads, 0, on, true, values,
                    count / n, width, stride, token_jobs, column_jobs, scales, broken);
    }
    return launch(own_columns<T, 1>, dim3(blocks_for(count, kThreads)), kThreads, 0, on, true, values, count, width,
                  stride, token_jobs, column_jobs, scales, broken);
  });
}

int finesweep_rotate(void* x, std::int64_t tokens, std::int64_t stride, std::int64_t heads, std::int64_t size,
                     const float* cosine, const float* sine, const std::int64_t* positions, float sign, int type,
                     void* stream) {
  const std::int64_t pairs = tokens * heads * (size / 2);
  if (pairs == 0) return cudaSuccess;
  return with_type(type, [&](auto like) {
    using T = decltype(like);
    rotate<T><<<blocks_for(pairs, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<T*>(x), pairs, stride, static_cast<int>(heads), static_cast<int>(size / 2), cosine, sine,
        positions, sign);
    return static_cast<int>(cudaGetLastError());
  });
}
}
