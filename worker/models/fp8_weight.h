#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/kernels/fp8.h"
#include "worker/kernels/parameter.h"

namespace finesweep::worker {

/// A frozen weight in FP8 e4m3 with a scale for each output, whose products are of FP8 with FP8 (kernels/fp8.h): x
/// and dy are quantised token by token as they come. W is the same matrix both ways; on the way back its scales,
/// which then stand inside of the sum, go into dy before that is quantised:
///
///   y  = [q(x) codesᵀ] · scale of the token · scales
///   dx = [q(dy · scales) codes] · scale of the token
///
/// The rounding of x counts as part of the layer's noise: dx is the gradient by x as if there were none.
class Fp8Weight final : public QuantizedWeight {
 public:
  /// Of W [out, in] in fp32, bf16 or fp16, on its device.
  explicit Fp8Weight(const at::Tensor& weight);

  at::Tensor dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const override;
  bool quantizes_inputs() const override { return true; }
  at::Tensor quantized_product(const at::Tensor& x, const Fp8Rows* rows, std::int64_t begin, std::int64_t count,
                               const at::Tensor& bias, const at::Tensor& residual) const override;
  at::Tensor quantized_transposed_product(const at::Tensor& dy, const Fp8Rows* rows, std::int64_t begin,
                                          std::int64_t count, const at::Tensor& sum) const override;
  at::Tensor gradient_factors(std::int64_t begin, std::int64_t count) const override {
    return weight_.scales.narrow(0, begin, count);
  }
  std::int64_t rows() const override { return weight_.codes.size(0); }
  std::int64_t columns() const override { return weight_.codes.size(1); }
  std::int64_t bytes() const override;

 private:
  Fp8Rows rows_of(std::int64_t begin, std::int64_t count) const;

  Fp8Rows weight_;
  /// codesᵀ [in, out], scales 1. On a GPU a copy: its products in FP8 want both operands along the sum.
  Fp8Rows transposed_;
};

}  // namespace finesweep::worker
