#pragma once

#include "worker/quantization/nf4.h"

namespace finesweep::worker::reference {

// NF4 in plain tensor operations: what the vectorised code computes, and what runs on devices other than the CPU.

Nf4Tensor quantize_nf4(const at::Tensor& w, const Nf4Options& options);
at::Tensor dequantize(const Nf4Tensor& tensor, at::ScalarType type);
at::Tensor block_scales(const Nf4Tensor& tensor);

/// Largest absolute values of blocks, and for each value the number of bounds (between `levels`, [n] rising) that
/// it exceeds after division by its block's; in blocks of `block_size` over the flattened tensor.
struct Blockwise {
  at::Tensor absmax;  // [blocks] fp32
  at::Tensor codes;   // [values] uint8
};
Blockwise quantize_blockwise(const at::Tensor& values, const at::Tensor& levels, std::int64_t block_size);

/// `absmax`, [blocks] fp32 on any device, less its mean and in 8 bits: the second quantisation, on the same device.
NestedScales quantize_scales(const at::Tensor& absmax);

}  // namespace finesweep::worker::reference
