#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "jobs/compression_settings.h"
#include "jobs/result.h"
#include "worker/kernels/parameter.h"

namespace finesweep::worker {

/// Unstructured pruning by magnitude, as torch.nn.utils.prune's L1Unstructured has it
/// (https://arxiv.org/abs/1506.02626): round(amount × n) values, half to even, become 0, those of the least
/// absolute value; of equal ones the first by tensor and index. `per_tensor`: of each tensor; `global`: of all
/// together.
///
/// Returns a mask for each tensor, of its shape, uint8: 1 where the value is kept. Indices are those of a
/// contiguous tensor. The Error: a value that is not a finite number.
Result<std::vector<at::Tensor>> magnitude_masks(const std::vector<at::Tensor>& tensors, double amount,
                                                PruneScope scope);

/// Masks of a model or adapter by the names of its tensors in files, in their layout.
using NamedMasks = std::vector<std::pair<std::string, at::Tensor>>;

/// A parameter of which only some values are in use.
struct ParameterMask {
  Parameter* parameter = nullptr;
  at::Tensor mask;  // as its value, uint8: 1 where a value is kept

  /// Sets to 0 what is not. A frozen value that other models share is replaced, not written.
  void apply() const;
};

/// The share of 0 in all masks together.
double sparsity(const NamedMasks& masks);

}  // namespace finesweep::worker
