#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "jobs/result.h"
#include "worker/models/model.h"
#include "worker/training/pack_views.h"
#include "worker/training/rank_groups.h"
#include "worker/training/scale_groups.h"

namespace finesweep::worker {

/// That the model's frozen weights are those of `host`, but for a head of the same shape, and that on a GPU its
/// adapter leaves the head alone. The Error says what is not.
Status check_packable(Model& host, Model& model);

/// What a pass through the base of a pack does differently for the rows of each job: as long as it lives, rows that
/// `host` is given (pack_inputs) go through the adapter and the head of their own job.
///
/// On a CPU each job's linear modules compute its own rows, so its numbers are to the bit those of its own model.
/// On a GPU the base's products serve all rows, adapters lie side by side (RankGroups, ScaleGroups), and heads
/// alone are computed job by job; numbers agree but for rounding.
class PackModules {
 public:
  /// The models, which check_packable has passed, and their adapters must outlive it.
  PackModules(Model& host, const std::vector<Model*>& jobs);
  ~PackModules();
  PackModules(const PackModules&) = delete;
  PackModules& operator=(const PackModules&) = delete;

  /// Of a job's parameter: undefined ones where the passes read the parameter itself.
  PackViews views(const Parameter* parameter) const;
  /// RankColumns::broken: int32 [jobs]. Undefined on a CPU.
  at::Tensor broken() const;

  /// On a GPU: its part of both groups becomes zeros.
  void leave_out(std::size_t job);

 private:
  std::vector<LinearModule*> host_;
  std::unique_ptr<ScaleGroups> scales_;  // null on a CPU
  std::unique_ptr<RankGroups> ranks_;    // likewise
};

}  // namespace finesweep::worker
