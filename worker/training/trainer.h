#pragma once

#include <c10/core/Event.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/batch.h"
#include "worker/models/model.h"
#include "worker/training/device_adamw.h"
#include "worker/training/step_graphs.h"
#include "worker/training/training.h"

namespace finesweep::worker {

/// The loss of a batch: the sum over what counts in it, divided by `denominator`, as Model::loss.
using LossFunction = std::function<Var(const Batch& batch, const Pass& pass, double denominator)>;

/// Trains the trained parameters of a model, a step at a time: the losses of an accumulated batch, their gradients,
/// the update (training.h).
///
/// Model (and adapter) must outlive it. What one step does follows from the weights, the state, the batches and the
/// seed alone: on one CPU, with the same number of threads, bit for bit.
class Trainer {
 public:
  /// `loss`: in place of the model's own. The others as Training has them.
  Trainer(Model& model, std::vector<Parameter*> parameters, const TrainingSettings& settings,
          std::int64_t total_steps, std::uint64_t seed, LossFunction loss = {},
          std::vector<ParameterMask> masks = {});

  /// One optimiser step over the batches of one accumulation (usually one). The Error is a batch that does not fit
  /// the model.
  Result<StepReport> step(const std::vector<Batch>& batches);

  /// The same in two parts. On a GPU the first gives the step to the device and returns, so that the device has the
  /// next before it is done with the last; the other waits for the oldest step that was started and not yet
  /// reported. Elsewhere the first does it all. After a step that was not finite those started behind it have done
  /// nothing, and are dropped.
  Status start(const std::vector<Batch>& batches);
  StepReport finish();
  /// Steps that were started and not reported. State is that behind them all.
  std::int64_t unfinished() const { return static_cast<std::int64_t>(pending_.size()); }

  /// Of a GPU whose kernels compute every step; else null.
  const StepGraphs* graphs() const { return graphs_.get(); }

  /// Its steps are those that were started.
  Training& training() { return training_; }
  const Training& training() const { return training_; }

 private:
  std::int64_t counted(const std::vector<Batch>& batches) const;
  /// Adds the gradients of a batch; returns its loss.
  Var pass(const Batch& batch, std::int64_t first_row, double denominator);
  /// Adds up the gradients of the scaled mean loss; returns that.
  double accumulate(const std::vector<Batch>& batches);
  StepReport step_here(const std::vector<Batch>& batches);
  void start_on_device(const std::vector<Batch>& batches);
  void pass_on_device(const std::vector<Batch>& batches, double denominator);

  Model& model_;
  LossFunction loss_;  // empty: the model's own
  std::uint64_t seed_ = 0;
  Training training_;

  struct Pending {
    StepReport report;
    std::int64_t step = 0;  // from 0
    at::Tensor result;      // pinned: on its way from a GPU; undefined: the report is whole
    std::shared_ptr<c10::Event> arrived;
  };
  std::deque<Pending> pending_;
  /// Of a GPU whose kernels compute every step.
  std::unique_ptr<DeviceAdamW> device_optimizer_;
  std::unique_ptr<StepGraphs> graphs_;
};

}  // namespace finesweep::worker
