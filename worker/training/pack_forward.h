#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/data/batch.h"
#include "worker/models/forward_graphs.h"
#include "worker/models/model.h"
#include "worker/training/pack_modules.h"

namespace finesweep::worker {

/// The passes of evaluations that run as a pack: one through the base for the batches of all jobs, each row with
/// the adapter and the head of its own job (PackModules), without a way back. On a GPU they are captured by shape,
/// and the rows of each job are part of it.
///
/// Of each job at most one batch goes into a pass, which its model has checked; null: the job has no rows in it. At
/// least one job has some. Results are waited for.
class PackForward {
 public:
  /// `host`: a frozen model of the base. The models, which check_packable has passed, and their adapters must
  /// outlive it. Attention is the same in all, and chosen by the caller. `captured_from`: BatchGraphs'.
  PackForward(Model& host, std::vector<Model*> jobs, int captured_from = 2);

  /// Model::logits of classifiers: of each job fp32 [rows, labels] on the CPU; undefined where it has no rows.
  std::vector<at::Tensor> logits(const std::vector<const Batch*>& batches);
  /// Model::loss of each job; 0 where it has no rows. denominators[j] is job j's, and not read where it has none.
  std::vector<double> losses(const std::vector<const Batch*>& batches, std::vector<double> denominators);

  /// For tests.
  const ForwardGraphs& graphs() const { return graphs_; }

 private:
  BatchInputs inputs_of(const std::vector<const Batch*>& batches);

  Model& host_;
  PackModules modules_;
  ForwardGraphs graphs_;
};

}  // namespace finesweep::worker
