#include "worker/kernels/cpu/scale.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

/// Tokens of which one partial sum is taken, whoever takes it.
constexpr std::int64_t kScaleGroup = 32;

}  // namespace

template <typename T>
void ScaleKernels<T>::forward(const T* x, std::int64_t x_stride, const float* factors, T* kept, T* y,
                              std::int64_t y_stride, std::int64_t tokens, std::int64_t width) {
  at::parallel_for(0, tokens, kScaleGroup, [=](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t i = 0; i < width; i += kLanes<F>) {
          const F v = load<F>(x + t * x_stride + i, width - i);
          if (kept != nullptr) store<F>(kept + t * width + i, v, width - i);
          store<F>(y + t * y_stride + i, v * load<F>(factors + i, width - i), width - i);
        }
      }
    });
  });
}

template <typename T>
void ScaleKernels<T>::backward(const T* dy, std::int64_t dy_stride, const T* x, std::int64_t x_stride,
                               const float* factors, float* grad, T* dx, std::int64_t dx_stride,
                               std::int64_t tokens, std::int64_t width) {
  const std::int64_t groups = (tokens + kScaleGroup - 1) / kScaleGroup;
  std::vector<float> partial(grad == nullptr ? 0 : groups * width);
  float* sums = grad == nullptr ? nullptr : partial.data();
  at::parallel_for(0, groups, 1, [=](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = begin * kScaleGroup; t < std::min(tokens, end * kScaleGroup); ++t) {
        for (std::int64_t i = 0; i < width; i += kLanes<F>) {
          const std::int64_t n = width - i;
          const F d = load<F>(dy + t * dy_stride + i, n);
          if (sums != nullptr) {
            float* to = sums + t / kScaleGroup * width + i;
            store<F>(to, load<F>(to, n) + d * load<F>(x + t * x_stride + i, n), n);
          }
          store<F>(dx + t * dx_stride + i, d * load<F>(factors + i, n), n);
        }
      }
    });
  });
  for (std::size_t i = 0; i < partial.size(); ++i) grad[i % width] += partial[i];
}

template struct ScaleKernels<float>;
template struct ScaleKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
