#pragma once

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// What follows the product.
struct NormLinearOptions {
  Activation activation = Activation::none;
  /// activation(z[:, :half]) · z[:, half:], the first half of the module's outputs being gates.
  bool gated = false;
  /// The result is fp32, whatever x is.
  bool to_float = false;
  /// Who multiplies the result, where that is known (ops.h).
  const LinearModule* next = nullptr;
};

/// activation(norm(x) Wᵀ + b + adapters): the beginning of a block, one kernel where few tokens are decoded on a
/// GPU.
Var norm_linear(Tape* tape, const Var& x, const NormModule& norm, const LinearModule& module, const Layout& layout,
                const DropoutRun& run, const NormLinearOptions& options = {});

}  // namespace finesweep::worker
