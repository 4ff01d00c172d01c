#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "worker/kernels/fp8.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker::gpu {

// FP8 on a GPU; arguments and results as in kernels/fp8.h.

/// Whether the kernel of libfinesweep-cuda.so quantises such a tensor.
bool quantizes_fp8(const at::Tensor& x);
Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors);

/// Where `next` multiplies in FP8: room for the rows of a tensor that a kernel is to write quantised too. Null: it
/// does not, or no kernel quantises such a tensor.
std::shared_ptr<Fp8Rows> empty_fp8_for(const LinearModule* next, const at::Tensor& like);

/// Whether a kernel computes the activation of z, or its gradient, and quantises it at once.
bool fuses_fp8(const at::Tensor& z, Activation activation);
/// y = activation(z) and its rows; y may be z, or undefined: the rows alone.
void activate(const at::Tensor& z, const at::Tensor& y, const Fp8Rows& rows, Activation activation);
/// dz = dy · activation'(z), and the rows of dz · factors; dz may be dy, or undefined.
void activation_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, const at::Tensor& factors,
                         const Fp8Rows& rows, Activation activation);

/// The same of activation(z[:, :inner]) · z[:, inner:], the middle of a gated block, which `width` = 2 × inner
/// columns go into.
bool fuses_fp8_gate(std::int64_t width, Activation activation);
/// y [tokens, inner] may be undefined.
void gate(const at::Tensor& z, const at::Tensor& y, const Fp8Rows& rows, Activation activation);
/// dz may be undefined.
void gate_gradient(const at::Tensor& z, const at::Tensor& dy, const at::Tensor& dz, const at::Tensor& factors,
                   const Fp8Rows& rows, Activation activation);

/// In bf16. Undefined where cuBLASLt cannot do it: then nothing was done. Which way was found for a shape is kept.
at::Tensor product_fp8(const Fp8Rows& a, const Fp8Rows& b, const at::Tensor& bias, const at::Tensor& residual);

/// How cuBLASLt computes a product in FP8.
enum class Fp8Way {
  whole,          // scales, bias and residual in its kernel
  scaled,         // scales in its kernel, bias and residual in a pass behind it
  scaled_behind,  // everything in a pass behind it
  none
};
/// The product by one of these ways, for product_fp8 and tests; undefined where it cannot be done.
at::Tensor product_fp8_by(Fp8Way way, const Fp8Rows& a, const Fp8Rows& b, const at::Tensor& bias,
                          const at::Tensor& residual);

}  // namespace finesweep::worker::gpu
