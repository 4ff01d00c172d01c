#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "worker/kernels/dropout.h"

namespace finesweep::worker::cpu {

/// Layer normalisation of [tokens, width] with what stands around it. Storage is float or BFloat16, sums and
/// statistics are fp32. A sum over tokens is taken over fixed groups of tokens, so it does not depend on the number
/// of threads.
template <typename T>
struct NormKernels {
  /// x ← residual + mask · x (kept for the way back), then y = norm(x).
  static void add_norm(T* x, const T* residual, const float* weight, const float* bias, float epsilon, T* y,
                       float* mean, float* inverse_deviation, std::int64_t width, const TokenLayout& layout,
                       const Dropout& dropout);
  /// y = mask · norm(x): after an embedding.
  static void norm_dropout(const T* x, const float* weight, const float* bias, float epsilon, T* y, float* mean,
                           float* inverse_deviation, std::int64_t width, const TokenLayout& layout,
                           const Dropout& dropout);
  /// The way back of both: dx is the gradient of what was normalised, dy that of y.
  ///   masked        where not null: also mask · dx, the gradient of add_norm's x (input_dropout)
  ///   output_dropout  of norm_dropout; inactive for add_norm
  /// Sums for weight and bias are added to weight_grad and bias_grad, which may be null together.
  static void backward(const T* x, const T* dy, const float* weight, const float* mean,
                       const float* inverse_deviation, T* dx, T* masked, float* weight_grad, float* bias_grad,
                       std::int64_t width, const TokenLayout& layout, const Dropout& input_dropout,
                       const Dropout& output_dropout);
  /// y = mask · x.
  static void dropout(const T* x, T* y, std::int64_t width, const TokenLayout& layout, const Dropout& dropout);
  /// out += the sum over tokens of x [tokens, width], whose rows are `stride` apart.
  static void column_sums(const T* x, std::int64_t tokens, std::int64_t width, std::int64_t stride, float* out);
};

}  // namespace finesweep::worker::cpu
