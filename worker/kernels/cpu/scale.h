#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

/// Columns multiplied by a number each, as IA3 does. Storage is float or BFloat16; rows are `stride` apart.
template <typename T>
struct ScaleKernels {
  /// y = x · factors; `y` may be x. Where `kept` is not null, x goes there too ([tokens, width] without gaps).
  static void forward(const T* x, std::int64_t x_stride, const float* factors, T* kept, T* y, std::int64_t y_stride,
                      std::int64_t tokens, std::int64_t width);
  /// dx = dy · factors; `dx` may be dy. Where `grad` is not null, grad += Σ over tokens of dy · x.
  static void backward(const T* dy, std::int64_t dy_stride, const T* x, std::int64_t x_stride, const float* factors,
                       float* grad, T* dx, std::int64_t dx_stride, std::int64_t tokens, std::int64_t width);
};

}  // namespace finesweep::worker::cpu
