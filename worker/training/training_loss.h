#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "worker/models/model.h"

namespace finesweep::worker {

/// A loss in place of the model's own.
struct TrainingLoss {
  /// The sum over what counts in a batch, divided by `denominator`, as Model::loss. Empty: the model's own.
  std::function<Var(const Batch& batch, const Pass& pass, const Denominator& denominator)> compute;
  /// What it reads beside the batch (BatchInputs::teacher), on the model's device, where a GPU computes the passes
  /// from inputs. Empty: nothing.
  std::function<at::Tensor(const Batch& batch)> teacher;

  Var of(Model& model, const Batch& batch, const Pass& pass, const Denominator& denominator) const {
    return compute ? compute(batch, pass, denominator) : model.loss(batch, pass, denominator);
  }
};

}  // namespace finesweep::worker
