#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "worker/kernels/ops.h"
#include "worker/training/fused_lora.h"
#include "worker/training/pack_views.h"

namespace finesweep::worker {

/// The LoRA of a pack's jobs on a GPU: of each part of a module that adapters work on, the ranks of all jobs side
/// by side in one A and one B (RankColumns), on the modules of the model that the pack's batches go through. So
/// each token costs what one adapter of that many ranks costs, whatever the ranks of the jobs are. The jobs' own
/// parameters keep the fp32 weights; gradients arrive, and values are read, in views of the groups. There are
/// gradients where the jobs' adapters are trained: all are, or none.
class RankGroups {
 public:
  /// host: the modules that the batches go through; jobs[j]: the same modules of job j's model, with its adapter.
  /// Both must outlive it. Dropout of adapters that are trained is the same in all jobs.
  RankGroups(const std::vector<LinearModule*>& host, const std::vector<std::vector<LinearModule*>>& jobs,
             c10::Device device);
  /// Takes them off the modules.
  ~RankGroups();
  RankGroups(const RankGroups&) = delete;
  RankGroups& operator=(const RankGroups&) = delete;

  /// Of a job's parameter; undefined ones where it is in no group.
  PackViews views(const Parameter* parameter) const;
  /// RankColumns::broken of all groups.
  const at::Tensor& broken() const { return broken_; }

  /// From here on the job's tokens go through the base alone, and its ranks have no gradient. Shapes stay.
  void leave_out(std::size_t job);

 private:
  struct Group {
    Parameter a, b;
    RankColumns columns;
    /// Ranks first … first + count are the job's.
    struct Ranks {
      std::size_t job = 0;
      std::int64_t first = 0, count = 0;
    };
    std::vector<Ranks> ranks;
    std::vector<const LoraBranch*> branches;  // of these jobs
    std::int64_t all = 0, in = 0, out = 0;    // A is [all, in], B [out, all]
  };
  struct Member {
    std::size_t job = 0;
    const LoraBranch* branch = nullptr;
  };
  void add(LinearModule& module, const std::vector<Member>& members);
  /// Memory for all groups, with the jobs' values in it: in a few pieces, since another process may have the
  /// device.
  void allocate(c10::Device device);
  void copy_values(c10::Device device);
  void settle_views();

  std::vector<LinearModule*> host_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::unique_ptr<FusedLora> fused_;  // goes before the groups
  std::map<const Parameter*, PackViews> views_;
  at::Tensor broken_;
};

}  // namespace finesweep::worker
