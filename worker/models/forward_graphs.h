#pragma once

#include <cstdint>

#include "worker/models/batch_graphs.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// What evaluations ask of a model, without a way back: on a GPU captured by shape (batch_graphs.h), elsewhere as
/// the model computes it. The model, with its adapter and attention, must stay as it is and outlive this.
class ForwardGraphs {
 public:
  explicit ForwardGraphs(Model& model);

  /// Model::logits of a classifier.
  at::Tensor logits(const Batch& batch);
  /// Model::loss.
  double loss(const Batch& batch, double denominator);

 private:
  Model& model_;
  BatchGraphs logits_, losses_;
  at::Tensor denominator_;  // on the device; undefined where nothing is captured
};

}  // namespace finesweep::worker
