#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/data/batch.h"
#include "worker/kernels/host_copy.h"
#include "worker/models/forward_graphs.h"
#include "worker/models/model.h"
#include "worker/training/pack_modules.h"

namespace finesweep::worker {

/// The passes of evaluations that run as a pack: one through the base for the batches of all jobs, each row with
/// the adapter and the head of its own job (PackModules), without a way back. On a GPU they are captured by shape,
/// and the rows of each job are part of it.
///
/// Of each job at most one batch goes into a pass, which its model has checked; null: the job has no rows in it. At
/// least one job has some.
class PackForward {
 public:
  /// `host`: a frozen model of the base. The models, which check_packable has passed, and their adapters must
  /// outlive it. Attention is the same in all, and chosen by the caller. `captured_from`: BatchGraphs'.
  PackForward(Model& host, std::vector<Model*> jobs, int captured_from = 2);

  /// What a pass gave of each job, on its way to the host. Asked for, it is waited for.
  class Given {
   public:
    Given(const at::Tensor& all, const std::vector<const Batch*>& batches);
    /// Model::logits of classifiers: fp32 [rows, labels] on the CPU; undefined where a job has no rows.
    std::vector<at::Tensor> logits() const;
    /// Model::loss; 0 where a job has no rows.
    std::vector<double> losses() const;

   private:
    HostCopy all_;
    std::vector<std::int64_t> rows_;
  };
  Given logits(const std::vector<const Batch*>& batches);
  /// denominators[j] is job j's, and not read where it has no rows.
  Given losses(const std::vector<const Batch*>& batches, std::vector<double> denominators);

  /// How many shapes are replayed.
  std::int64_t captured() const { return graphs_.captured(); }

 private:
  BatchInputs inputs_of(const std::vector<const Batch*>& batches);

  Model& host_;
  PackModules modules_;
  ForwardGraphs graphs_;
};

}  // namespace finesweep::worker
