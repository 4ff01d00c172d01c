#pragma once

#include <ATen/core/Tensor.h>

#include "worker/kernels/ops.h"

// The operations of a forward pass over few tokens by the kernels of cuda/decode*.cu. Each gives an undefined
// tensor where there is no kernel for what it is asked (another device, another type, adapters, odd sizes): then
// the caller goes on as if it had not asked. None records a way back.

namespace finesweep::worker::gpu {

struct DecodeLinear {
  const NormModule* norm = nullptr;  // of x
  at::Tensor residual = {};
  Activation activation = Activation::none;
  bool gated = false;
  bool to_float = false;
};

/// activation(norm(x) Wᵀ + b) + residual, of as few tokens as the libraries' products are slow with (16, in fp32 8;
/// more where there are very many outputs); of more tokens what a library computes at once.
at::Tensor decode_linear(const at::Tensor& x, const LinearModule& module, const DecodeLinear& what);

at::Tensor decode_norm(const at::Tensor& x, const NormModule& module);
at::Tensor decode_gate(const at::Tensor& z, Activation activation);
/// words[id] + positions[position].
at::Tensor decode_embed(const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
                        at::ScalarType type);

}  // namespace finesweep::worker::gpu
