#include "worker/models/fp8_weight.h"

#include <ATen/ops/ones.h>

namespace finesweep::worker {

Fp8Weight::Fp8Weight(const at::Tensor& weight) : weight_(quantize_fp8(weight)) {
  const at::Tensor turned = weight_.codes.t();
  // As bytes: not every device copies FP8 that is turned.
  transposed_.codes = turned.is_cuda() ? turned.view(at::kByte).contiguous().view(at::kFloat8_e4m3fn) : turned;
  transposed_.scales = at::ones({turned.size(0)}, weight_.scales.options());
}

Fp8Rows Fp8Weight::rows_of(std::int64_t begin, std::int64_t count) const {
  return {weight_.codes.narrow(0, begin, count), weight_.scales.narrow(0, begin, count)};
}

at::Tensor Fp8Weight::dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const {
  return worker::dequantize(rows_of(begin, count), type);
}

at::Tensor Fp8Weight::quantized_product(const at::Tensor& x, const Fp8Rows* rows, std::int64_t begin,
                                        std::int64_t count, const at::Tensor& bias,
                                        const at::Tensor& residual) const {
  return product_fp8(rows != nullptr ? *rows : quantize_fp8(x), rows_of(begin, count), x.scalar_type(), bias,
                     residual);
}

at::Tensor Fp8Weight::quantized_transposed_product(const at::Tensor& dy, const Fp8Rows* rows, std::int64_t begin,
                                                   std::int64_t count, const at::Tensor& sum) const {
  const Fp8Rows turned{transposed_.codes.narrow(1, begin, count), transposed_.scales};
  return product_fp8(rows != nullptr ? *rows : quantize_fp8(dy, gradient_factors(begin, count)), turned,
                     dy.scalar_type(), {}, sum);
}

std::int64_t Fp8Weight::bytes() const {
  const std::int64_t copies = weight_.codes.is_cuda() ? 2 : 1;
  return copies * weight_.codes.numel() + 4 * (rows() + columns());
}

}  // namespace finesweep::worker
