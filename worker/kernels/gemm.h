#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker {

// The matrix products of linear layers, on any device, fp32 or bf16. Operands are row-major matrices or slices of
// such. On a CPU fp32 goes to oneDNN, which on processors without MKL's favour is some 10 % faster than at::mm.

/// x wᵀ + bias + residual; bias and residual may be undefined.  x [tokens, in], w [out, in], residual [tokens,
/// out].
at::Tensor product_with_weight(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias = {},
                               const at::Tensor& residual = {});
/// dy w: the way back of it.  dy [tokens, out], w [out, in].
at::Tensor product_with_transposed_weight(const at::Tensor& dy, const at::Tensor& w);
/// grad += dyᵀ x.  grad [out, in] fp32.
void add_weight_gradient(const at::Tensor& grad, const at::Tensor& dy, const at::Tensor& x);
/// y += scale · a b, for a thin product.
void add_product(const at::Tensor& y, const at::Tensor& a, const at::Tensor& b, double scale = 1);

}  // namespace finesweep::worker
