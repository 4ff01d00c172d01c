#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/models/batch_graphs.h"
#include "worker/models/model.h"
#include "worker/training/training_loss.h"

namespace finesweep::worker {

class GradientSum;  // worker/training/gradient_sum.h

/// The passes (forward and back) of training steps on a GPU, captured by shape (models/batch_graphs.h). What
/// changes from pass to pass beside the batch, denominator and dropout's step, stands on the device.
class StepGraphs {
 public:
  struct Options {
    std::uint64_t seed = 0;
    bool recompute_layers = false;
    /// Of processes that train together: hears of gradients that are whole. Null: this one trains alone.
    GradientSum* gradients = nullptr;
  };

  /// The passes add what `loss` says to `sum`, fp64 [1] on the model's device. Model and loss must outlive this.
  StepGraphs(Model& model, const TrainingLoss& loss, at::Tensor sum, const Options& options);

  /// The step, from 0, and the denominator of the passes that follow.
  void begin(std::int64_t step, double denominator);
  /// Adds the gradients of a batch. False where the model cannot make inputs of it: then nothing was done.
  bool pass(const Batch& batch, std::int64_t first_row);

  /// How many shapes are replayed, for tests.
  std::int64_t captured() const { return graphs_.captured(); }

 private:
  void run(const BatchInputs& inputs);

  Model& model_;
  const TrainingLoss& loss_;
  Options options_;
  at::Tensor sum_;
  at::Tensor numbers_;             // 16 bytes: denominator, step
  at::Tensor denominator_, step_;  // views of it
  BatchGraphs graphs_;
};

}  // namespace finesweep::worker
