#pragma once

#include <c10/core/Event.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/collectives/process_group.h"
#include "worker/data/batch.h"
#include "worker/models/model.h"
#include "worker/training/adamw.h"
#include "worker/training/device_adamw.h"
#include "worker/training/gradient_sum.h"
#include "worker/training/loss_scale.h"
#include "worker/training/pruning.h"
#include "worker/training/step_graphs.h"
#include "worker/training/training_loss.h"

namespace finesweep::worker {

/// Learning rate of optimiser step `step` (from 0) in a run of `total`: rises linearly from 0 over `warmup` steps,
/// then stays (constant), falls linearly to 0, or falls as a half cosine to 0.
double learning_rate_at(Schedule schedule, double peak, std::int64_t step, std::int64_t warmup, std::int64_t total);

struct StepReport {
  /// Mean over what counts (rows, tokens) in the whole accumulated batch, before the step; 0 where nothing does.
  double loss = 0;
  double learning_rate = 0;
  /// Of all trained parameters together, before clipping.
  double grad_norm = 0;
  /// False: loss or gradient norm is not a finite number. Then nothing was updated and the step does not count.
  bool finite = true;
  /// fp16: how often the step was done again with half the loss scale, because a scaled gradient had overflowed.
  int overflows = 0;
};

/// Trains the trained parameters of a model: AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101),
/// as PyTorch computes it, with a schedule, clipping and accumulation.
///
/// In fp16 the loss is scaled. Where PyTorch's GradScaler drops a step whose gradients overflow, the step is done
/// again here with half the scale: no rows are lost, and the schedule and the number of steps stay those of the
/// other precisions. Only what overflows without any scale has diverged.
///
/// Several processes train one model together (data-parallel): each is given the whole batches, computes its even
/// share of the rows of each, and all take the same step, that of the sum. A batch may have fewer rows than there
/// are ranks; who gets a row more goes round.
///
/// Model (and adapter) must outlive it. What one step does follows from the weights, the state, the batches, the
/// seed and the number of ranks alone: on one CPU, with the same number of threads, bit for bit.
class Trainer {
 public:
  /// `total_steps`: optimiser steps of the whole run; the schedule needs it. `loss`: in place of the model's own.
  /// What `masks` prune is 0 and stays so. `group`: of the processes that train together; null: this one alone.
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
  /// Steps that were started and not reported. State is that behind them all.
  std::int64_t unfinished() const { return static_cast<std::int64_t>(pending_.size()); }

  /// Of a GPU whose kernels compute every step; else null.
  const StepGraphs* graphs() const { return graphs_.get(); }

  /// Started ones too.
  std::int64_t steps_done() const { return steps_done_; }
  std::int64_t total_steps() const { return total_steps_; }

  /// The training state: for every trained tensor its fp32 weights under its own name, its moments under
  /// "optimizer.first_moment.<name>" and "optimizer.second_moment.<name>", and "optimizer.step" (int64 [1]); in
  /// fp16 "optimizer.loss_scale" too (fp64 [2]: scale, steps since it changed). Tensors alias the live ones: write
  /// them before the next step.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// Continues from a state of the same model, method and optimiser. The Error names the tensor that is missing or
  /// has another shape; then nothing was changed.
  Status restore(const std::map<std::string, at::Tensor>& state);

 private:
  /// What this process computes of a batch.
  struct Share {
    Batch batch;
    std::int64_t first_row = 0;  // within the accumulated batch
  };
  /// Only those that have rows.
  std::vector<Share> shares_of(const std::vector<Batch>& batches) const;
  /// Over all batches, of all ranks.
  double denominator_of(const std::vector<Batch>& batches) const;
  /// Adds up the gradients of `loss_scale` × the mean loss; returns the mean loss.
  double accumulate(const std::vector<Batch>& batches, double loss_scale);
  void zero_grads();
  StepReport step_here(const std::vector<Batch>& batches);
  void start_on_device(const std::vector<Batch>& batches);
  void pass_on_device(const std::vector<Batch>& batches, double denominator);

  Model& model_;
  ProcessGroup* group_ = nullptr;
  TrainingLoss loss_;
  std::vector<ParameterMask> masks_;
  TrainingSettings settings_;
  std::vector<Parameter*> parameters_;
  std::unique_ptr<GradientSum> gradients_;  // with a group
  AdamW optimizer_;
  std::int64_t warmup_ = 0;
  std::int64_t total_steps_ = 0;
  std::int64_t steps_done_ = 0;
  std::uint64_t seed_ = 0;
  LossScale loss_scale_;  // stays 1 but in fp16

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
