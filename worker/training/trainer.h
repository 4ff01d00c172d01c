#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/collectives/process_group.h"
#include "worker/data/batch.h"
#include "worker/models/model.h"
#include "worker/training/device_adamw.h"
#include "worker/training/fused_lora.h"
#include "worker/training/gradient_sum.h"
#include "worker/training/step_graphs.h"
#include "worker/training/training.h"
#include "worker/training/training_loss.h"

namespace finesweep::worker {

/// Trains the trained parameters of a model, a step at a time: the losses of an accumulated batch, their gradients,
/// the update (training.h).
///
/// Several processes train one model together (data-parallel): each is given the whole batches, computes its even
/// share of the rows of each, and all take the same step, that of the sum. A batch may have fewer rows than there
/// are ranks; who gets a row more goes round.
///
/// Model (and adapter) must outlive it. What one step does follows from the weights, the state, the batches, the
/// seed and the number of ranks alone: on one CPU, with the same number of threads, bit for bit.
class Trainer {
 public:
  /// `loss`: in place of the model's own. `group`: of the processes that train together; null: this one alone. The
  /// others as Training has them.
  Trainer(Model& model, std::vector<Parameter*> parameters, const TrainingSettings& settings,
          std::int64_t total_steps, std::uint64_t seed, TrainingLoss loss = {},
          std::vector<ParameterMask> masks = {}, ProcessGroup* group = nullptr);

  /// One optimiser step over the batches of one accumulation (usually one). The Error is a batch that does not fit
  /// the model. Throws PeerLost.
  Result<StepReport> step(const std::vector<Batch>& batches);

  /// The same in two parts. On a GPU the first gives the step to the device and returns, so that the device has the
  /// next before it is done with the last; the other waits for the oldest step that was started and not yet
  /// reported. Elsewhere the first does it all. After a step that was not finite those started behind it have done
  /// nothing, and are dropped.
  Status start(const std::vector<Batch>& batches);
  StepReport finish();
  /// On a GPU: computes such a step twice for nothing, so that kernels are chosen and the pass is captured before
  /// the first one counts. Nothing changes. Elsewhere, and in a group, nothing happens.
  void rehearse(const std::vector<Batch>& batches);
  /// Of a group: brings the weights and moments together of which each process updates a share, for who reads the
  /// training's state. No step is under way; all processes call it.
  void make_whole();
  /// Steps that were started and not reported. State is that behind them all.
  std::int64_t unfinished() const { return static_cast<std::int64_t>(pending_.size()); }

  /// Of a GPU whose kernels compute every step, once one was started; else null.
  const StepGraphs* graphs() const { return graphs_.get(); }

  /// Its steps are those that were started.
  Training& training() { return training_; }
  const Training& training() const { return training_; }

 private:
  /// What this process computes of a batch.
  struct Share {
    Batch batch;
    std::int64_t first_row = 0;  // within the accumulated batch
  };
  /// Only those that have rows.
  std::vector<Share> shares_of(const std::vector<Batch>& batches) const;
  /// Over all batches, of all ranks.
  std::int64_t counted(const std::vector<Batch>& batches) const;
  /// Adds the gradients of a share; returns its loss. `watched`: the sum over the ranks may begin meanwhile.
  Var pass(const Share& share, double denominator, bool watched);
  /// Adds up the gradients of the scaled mean loss; returns that.
  double accumulate(const std::vector<Batch>& batches);
  StepReport step_here(const std::vector<Batch>& batches);
  /// The part on a GPU, made when the first step is: in a pack there is none.
  void settle_on_device();
  void start_on_device(const std::vector<Batch>& batches);
  void pass_on_device(const std::vector<Batch>& batches, double denominator);

  Model& model_;
  ProcessGroup* group_ = nullptr;
  TrainingLoss loss_;
  std::uint64_t seed_ = 0;
  Training training_;
  std::unique_ptr<GradientSum> gradients_;  // with a group

  struct Pending {
    StepReport report;
    std::int64_t step = 0;                    // from 0
    std::optional<DeviceStepResults> result;  // of a GPU; none: the report is whole
  };
  std::deque<Pending> pending_;
  /// Of a GPU whose kernels compute every step.
  const bool on_device_;
  std::unique_ptr<FusedLora> fused_;
  std::unique_ptr<DeviceAdamW> device_optimizer_;
  std::unique_ptr<StepGraphs> graphs_;
};

}  // namespace finesweep::worker
