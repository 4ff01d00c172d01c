#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "worker/kernels/dropout.h"

namespace finesweep::worker::cpu {

struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;  // null: none
  float epsilon = 0;
  bool centred = true;  // LayerNorm; false: RMSNorm, and the means that are kept are 0
};

/// Dropout of hidden states, whose tokens the layout numbers. Inactive: layout may be null.
struct TokenDropout {
  const TokenLayout* layout = nullptr;
  Dropout dropout;
};

/// Normalisation of [tokens, width] with what stands around it. Storage is float or BFloat16, sums and statistics
/// are fp32. A sum over tokens is taken over fixed groups of tokens, so it does not depend on the number of
/// threads.
template <typename T>
struct NormKernels {
  /// x ← residual + mask · x (kept for the way back), then y = norm(x).
  static void add_norm(T* x, const T* residual, const NormWeights& weights, T* y, float* mean,
                       float* inverse_deviation, std::int64_t tokens, std::int64_t width,
                       const TokenDropout& dropout);
  /// y = mask · norm(x).
  static void norm_dropout(const T* x, const NormWeights& weights, T* y, float* mean, float* inverse_deviation,
                           std::int64_t tokens, std::int64_t width, const TokenDropout& dropout);
  /// The way back of both: dx is the gradient of what was normalised, dy that of y.
  ///   masked        where not null: also mask · dx, the gradient of add_norm's x (input_dropout)
  ///   output_dropout  of norm_dropout; inactive for add_norm
  /// Sums for weight and bias are added to weight_grad and bias_grad; each may be null, the latter where the former
  /// is.
  static void backward(const T* x, const T* dy, const NormWeights& weights, const float* mean,
                       const float* inverse_deviation, T* dx, T* masked, float* weight_grad, float* bias_grad,
                       std::int64_t tokens, std::int64_t width, const TokenDropout& input_dropout,
                       const TokenDropout& output_dropout);
  /// y = mask · x; y may be x.
  static void dropout(const T* x, T* y, std::int64_t tokens, std::int64_t width, const TokenDropout& dropout);
  /// y = residual + mask · x; y may be x.
  static void add(const T* x, const T* residual, T* y, std::int64_t tokens, std::int64_t width,
                  const TokenDropout& dropout);
  /// out += the sum over tokens of x [tokens, width], whose rows are `stride` apart.
  static void column_sums(const T* x, std::int64_t tokens, std::int64_t width, std::int64_t stride, float* out);
};

}  // namespace finesweep::worker::cpu
