#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "worker/models/batch_graphs.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// What evaluations ask of a model, without a way back: on a GPU captured by shape (batch_graphs.h), elsewhere as
/// the model computes it. The model, with its adapter and attention, must stay as it is and outlive this.
class ForwardGraphs {
 public:
  /// For evaluations of few passes.
  static constexpr int kSeldom = 5;

  /// `jobs`: of how many jobs a pass may have rows. `captured_from`: BatchGraphs'.
  explicit ForwardGraphs(Model& model, std::size_t jobs = 1, int captured_from = 2);

  /// Model::logits of a classifier.
  at::Tensor logits(const Batch& batch);
  /// Model::loss: [1], of any device.
  at::Tensor loss(const Batch& batch, double denominator);

  /// The same of a pack's rows, which pack_inputs has put together on the CPU. A GPU has kernels for the model.
  at::Tensor logits(const BatchInputs& inputs);
  /// [jobs], of any device. `denominators` are the jobs'.
  at::Tensor losses(const BatchInputs& inputs, const std::vector<double>& denominators);

  /// How many shapes are replayed.
  std::int64_t captured() const { return logits_.captured() + losses_.captured(); }

 private:
  Model& model_;
  BatchGraphs logits_, losses_;
  at::Tensor denominators_;  // fp64 [jobs], on the device; undefined where nothing is captured
};

}  // namespace finesweep::worker
