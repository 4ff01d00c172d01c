#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/kernels/host_copy.h"
#include "worker/kernels/parameter.h"
#include "worker/training/adamw.h"

namespace finesweep::worker {

/// What a step on a GPU leaves of a job, once the host has it.
struct DeviceStepResult {
  double loss = 0, grad_norm = 0;
  /// Also false after a step that was not.
  bool finite = true;
  /// Of a pack: a number of the job's own was not finite on its way to the gradients, which spreads to those of the
  /// others.
  bool broken = false;
};

/// Of each job, on their way to the host.
class DeviceStepResults {
 public:
  explicit DeviceStepResults(const at::Tensor& bytes) : bytes_(bytes) {}
  /// Waits for them.
  std::vector<DeviceStepResult> get() const;

 private:
  HostCopy bytes_;
};

/// AdamW (as training/adamw.h has it) of the parameters of one job, or of the jobs of a pack, on one GPU, each with
/// its own learning rate, step and clipping, in three launches and without the host: what it decides by, the norms
/// and whether they are finite numbers, never leaves the device. After a loss or norm that is none, of any job, no
/// step updates anything until `resume`.
class DeviceAdamW {
 public:
  /// Of processes that train one job together, each of which updates its own values.
  class Others {
   public:
    virtual ~Others() = default;
    /// Adds up numbers over all of them: fp64, contiguous.
    virtual void add_up(const at::Tensor& numbers) = 0;
    /// The values of a group of tensors, numbered by Job::groups, are updated here.
    virtual void updated(std::size_t group) = 0;
  };
  struct Tensor {
    Parameter* parameter = nullptr;
    const AdamW::Moments* moments = nullptr;
    /// Views, rows apart, in place of the parameter's own: where a pack's passes leave its gradient, and where they
    /// read its value. Undefined: its own.
    at::Tensor grad = {}, value = {};
    /// Of its values those from `begin` to before `end` are updated; -1: to the last one.
    std::int64_t begin = 0, end = -1;
  };
  struct Job {
    std::vector<Tensor> tensors;
    AdamWOptions options;
    /// Behind how many of the tensors each group ends, where `Others` are told of groups.
    std::vector<std::size_t> groups = {};
  };
  /// Of a job in one step.
  struct Step {
    double learning_rate = 0;
    std::int64_t step = 1;  // from 1
    /// Gradients and loss are those of `unscale`⁻¹ times the loss.
    double unscale = 1;
  };

  /// Whether the kernels can do it.
  static bool available(const std::vector<Parameter*>& parameters);

  /// Parameters and moments must outlive it, and all tensors stay where they are. `broken`: of a pack, int32
  /// [jobs], what RankColumns::broken says of each.
  explicit DeviceAdamW(const std::vector<Job>& jobs, at::Tensor broken = {});
  DeviceAdamW(const std::vector<Parameter*>& parameters, const std::vector<AdamW::Moments>& moments,
              const AdamWOptions& options);

  /// fp64 [jobs], on the device: passes add their losses to it.
  const at::Tensor& losses() const { return losses_; }
  /// One update from the gradients, which become 0, as the losses do. `steps` are the jobs'.
  void update(const std::vector<Step>& steps);
  /// The same of one job that others train too.
  void update(const Step& step, Others& others);
  void resume();

  /// Of the last update.
  DeviceStepResults results() const { return DeviceStepResults(results_); }

 private:
  at::Tensor numbers_of_all(const std::vector<Step>& steps) const;
  void sum_squares(double* total);
  void decide(const at::Tensor& partial, const at::Tensor& jobs, const at::Tensor& numbers);
  void update_chunks(std::int64_t begin, std::int64_t end, const at::Tensor& numbers);

  std::vector<AdamWOptions> options_;
  std::int64_t chunk_count_ = 0;
  std::vector<std::int64_t> group_ends_;  // chunks
  /// of_all_: fp64 [2], the sum of squares and the loss, where others train the job too.
  at::Tensor tensors_, chunks_, jobs_, losses_, broken_, partial_, results_, of_all_, one_job_;
};

}  // namespace finesweep::worker
