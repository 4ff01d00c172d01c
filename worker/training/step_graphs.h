#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "worker/models/model.h"

namespace finesweep::worker {

/// The passes (forward and back) of training steps on a GPU, each shape captured once and replayed from then on.
///
/// A batch is brought to one of few shapes: its tokens are padded up to a multiple of a sixteenth to an eighth of
/// their number, with tokens of no row; where every row has the same length nothing is padded. What changes from
/// pass to pass (tokens, labels, denominator, dropout's step) is copied into memory that the captured work reads.
/// The first pass of a shape runs as it is, the second is captured. What cannot be captured runs as it is each
/// time, and stderr says so once.
class StepGraphs {
 public:
  struct Options {
    std::uint64_t seed = 0;
    bool recompute_layers = false;
  };

  /// The passes add their losses to `loss`, fp64 [1] on the model's device. The model must outlive this.
  StepGraphs(Model& model, at::Tensor loss, const Options& options);
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  /// The step, from 0, and the denominator of the passes that follow.
  void begin(std::int64_t step, double denominator);
  /// Adds the gradients of a batch. False where the model cannot make inputs of it: then nothing was done.
  bool pass(const Batch& batch, std::int64_t first_row);

  /// How many shapes are replayed, for tests.
  std::int64_t captured() const;

 private:
  struct Shape;

  Shape& shape_of(const std::vector<std::int64_t>& key);
  void run(const BatchInputs& inputs);

  Model& model_;
  Options options_;
  at::Tensor loss_;
  at::Tensor numbers_;             // 16 bytes: denominator, step
  at::Tensor denominator_, step_;  // views of it
  std::list<Shape> shapes_;        // the last used first
  bool refused_ = false;
};

}  // namespace finesweep::worker
