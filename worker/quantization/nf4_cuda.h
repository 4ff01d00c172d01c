#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/quantization/nf4.h"

namespace finesweep::worker::cuda {

// NF4 on a GPU by the kernels of libfinesweep-cuda.so. Each call is asynchronous on the current stream.

/// The kernels are there and the tensor lies on a GPU.
bool has_kernels(const Nf4Tensor& tensor);

/// Numbers first … first + out.numel() of the flattened matrix, in the type of `out`, which is contiguous.
void dequantize(const Nf4Tensor& tensor, std::int64_t first, const at::Tensor& out);

/// So few tokens that the product is bound by reading the weight, and shapes that the kernel takes.
bool multiplies_directly(const Nf4Tensor& w, std::int64_t tokens);
/// x wᵀ.  x [tokens, in] contiguous → [tokens, out]
at::Tensor product(const at::Tensor& x, const Nf4Tensor& w);

}  // namespace finesweep::worker::cuda
