#pragma once

#include <ATen/core/Tensor.h>

#include "worker/kernels/fp8.h"

namespace finesweep::worker::gpu {

// FP8 on a GPU; arguments and results as in kernels/fp8.h.

/// Whether the kernel of libfinesweep-cuda.so quantises such a tensor.
bool quantizes_fp8(const at::Tensor& x);
Fp8Rows quantize_fp8(const at::Tensor& x, const at::Tensor& factors);

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
