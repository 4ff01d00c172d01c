#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/models/batch_graphs.h"
#include "worker/models/model.h"
#include "worker/training/training_loss.h"

namespace finesweep::worker {

class GradientSum;  // worker/training/gradient_sum.h

/// The passes (forward and back) of training steps on a GPU, of one job or of a pack, captured by shape
/// (models/batch_graphs.h). What changes from pass to pass beside the batch, denominators and dropout's step,
/// stands on the device.
class StepGraphs {
 public:
  struct Options {
    std::uint64_t seed = 0;  // of a pack each row has its own
    bool recompute_layers = false;
    /// Of processes that train together: hears of gradients that are whole. Null: this one trains alone.
    GradientSum* gradients = nullptr;
  };

  /// The passes add what `loss` says to `losses`, fp64 [jobs] on the model's device. Model and loss must outlive
  /// this.
  StepGraphs(Model& model, const TrainingLoss& loss, at::Tensor losses, const Options& options);

  /// The step, from 0 (of a pack each row has its own), and each job's denominator of the passes that follow.
  void begin(std::int64_t step, const std::vector<double>& denominators);
  /// Adds the gradients of a batch. False where the model cannot make inputs of it: then nothing was done.
  bool pass(const Batch& batch, std::int64_t first_row);
  /// The same of inputs on the CPU.
  void pass(const BatchInputs& inputs);

  /// How many shapes are replayed.
  std::int64_t captured() const { return graphs_.captured(); }

 private:
  void run(const BatchInputs& inputs);

  Model& model_;
  const TrainingLoss& loss_;
  Options options_;
  at::Tensor losses_;
  at::Tensor numbers_;              // denominators and step, 8 bytes each
  at::Tensor denominators_, step_;  // views of it
  BatchGraphs graphs_;
};

}  // namespace finesweep::worker
