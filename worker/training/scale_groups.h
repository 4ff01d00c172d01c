#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

#include "worker/kernels/ops.h"
#include "worker/training/pack_views.h"

namespace finesweep::worker {

/// The IA3 of a pack's jobs on a GPU: of each part of a module that adapters multiply, and of each input, the
/// numbers of all jobs as rows of one matrix (ScaleBranch::of_jobs), on the modules of the model that the pack's
/// batches go through. A job without them there has ones. The jobs' own parameters keep the fp32 weights; gradients
/// arrive, and values are read, in views of the rows.
class ScaleGroups {
 public:
  /// host: the modules that the batches go through; jobs[j]: the same modules of job j's model, with its adapter.
  /// Both must outlive it. All adapters are trained, or none. To be made before the LoRA of the same modules is put
  /// into one matrix with them (FusedLora), which leaves modules with scales as they are.
  ScaleGroups(const std::vector<LinearModule*>& host, const std::vector<std::vector<LinearModule*>>& jobs);
  /// Takes them off the modules.
  ~ScaleGroups();
  ScaleGroups(const ScaleGroups&) = delete;
  ScaleGroups& operator=(const ScaleGroups&) = delete;

  /// Of a job's parameter, of its shape; undefined ones where it is in no group.
  PackViews views(const Parameter* parameter) const;
  /// The job's rows of the batches are multiplied by zeros from here on: finite, whatever it diverged to.
  void leave_out(std::size_t job);

 private:
  struct Member {
    std::size_t job = 0;
    const ScaleBranch* branch = nullptr;
  };
  void add(LinearModule& module, const std::vector<Member>& members, std::size_t jobs);

  std::vector<LinearModule*> host_;
  std::vector<std::unique_ptr<Parameter>> groups_;
  std::map<const Parameter*, PackViews> views_;
};

}  // namespace finesweep::worker
