#include "worker/kernels/fp8.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "worker/kernels/gpu/fp8.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace reference {

Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors) {
  at::Tensor v = x.to(at::kFloat);
  if (factors.defined()) v = v * factors;
  const at::Tensor most = at::amax(v.abs(), {1});
  const at::Tensor none = most.lt(kFp8Smallest), zero = at::zeros_like(most);
  const at::Tensor inverse = at::where(none, zero, at::full_like(most, kFp8Largest) / most);
  return {(v * inverse.unsqueeze(1)).to(at::kFloat8_e4m3fn),
          at::where(none, zero, most / at::full_like(most, kFp8Largest))};
}

at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType type, const at::Tensor& bias,
                       const at::Tensor& residual) {
  at::Tensor y = a.codes.is_cuda() ? at::mm(a.codes.to(at::kBFloat16), b.codes.to(at::kBFloat16).t(), at::kFloat)
                                   : at::mm(a.codes.to(at::kFloat), b.codes.to(at::kFloat).t());
  y.mul_(a.scales.unsqueeze(1)).mul_(b.scales);
  if (bias.defined()) y.add_(bias);
  if (residual.defined()) y.add_(residual);
  return y.to(type);
}

}  // namespace reference

Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors) {
  const ProfileScope scope("quantising to FP8", OperatorGroup::other);
  return gpu::quantizes_fp8(x) ? gpu::quantize_fp8(x, factors) : reference::quantize_fp8(x, factors);
}

at::Tensor dequantize(const Fp8Rows& rows, at::ScalarType type) {
  return rows.codes.to(at::kFloat).mul_(rows.scales.unsqueeze(1)).to(type);
}

at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, at::ScalarType type, const at::Tensor& bias,
                       const at::Tensor& residual) {
  const ProfileScope scope("matrix product in FP8", OperatorGroup::matrix_product);
  if (a.codes.is_cuda() && type == at::kBFloat16) {
    const at::Tensor y = gpu::product_fp8(a, b, bias, residual);
    if (y.defined()) return y;
  }
  return reference::product_fp8(a, b, type, bias, residual);
}

}  // namespace finesweep::worker
