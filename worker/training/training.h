#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/kernels/parameter.h"
#include "worker/training/adamw.h"
#include "worker/training/loss_scale.h"
#include "worker/training/pruning.h"

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

/// What is trained, how and how far: parameters, AdamW with decoupled weight decay
/// (https://arxiv.org/abs/1711.05101) as PyTorch computes it, schedule, clipping, loss scale, steps. Where
/// gradients come from is not its matter: a Trainer has one, a PackTrainer several.
///
/// In fp16 the loss is scaled. Where PyTorch's GradScaler drops a step whose gradients overflow, the step is done
/// again here with half the scale: no rows are lost, and the schedule and the number of steps stay those of the
/// other precisions. Only what overflows without any scale has diverged.
class Training {
 public:
  /// Parameters must outlive it. `total_steps`: optimiser steps of the whole run; the schedule needs it. What
  /// `masks` prune is 0 and stays so.
  Training(std::vector<Parameter*> parameters, const TrainingSettings& settings, std::int64_t total_steps,
           std::vector<ParameterMask> masks);

  const TrainingSettings& settings() const { return settings_; }
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  const std::vector<ParameterMask>& masks() const { return masks_; }
  /// As the parameters.
  const std::vector<AdamW::Moments>& moments() const { return optimizer_.moments(); }
  AdamWOptions optimizer_options() const;
  std::int64_t total_steps() const { return total_steps_; }
  std::int64_t steps_left() const { return total_steps_ - steps_done_; }

  std::int64_t steps_done() const { return steps_done_; }
  void set_steps_done(std::int64_t steps) { steps_done_ = steps; }
  /// Of the next step.
  double learning_rate() const;

  /// What the losses of a step that counts so many rows or tokens are divided by: this makes the scaled mean of
  /// them.
  double denominator(std::int64_t counted) const;
  double loss_scale() const { return loss_scale_.scale; }
  bool scales_loss() const { return settings_.precision == Precision::fp16; }
  /// After a step whose loss or gradients were not finite: whether that was a matter of the scale, which is then
  /// half of what it was, so that the step is to be done again.
  bool shrink_scale(double loss);
  /// After a step that was done: a long time without overflow doubles the scale.
  void grow_scale();

  /// From the parameters' gradients, of the scaled loss, and that loss: what a step would be. Nothing changes.
  StepReport examine(double scaled_loss) const;
  /// The update of a step that examine() found finite.
  void update(const StepReport& report);
  void mask_gradients() const;
  void zero_grads();

  /// For every trained tensor its fp32 weights under its own name, its moments under
  /// "optimizer.first_moment.<name>" and "optimizer.second_moment.<name>", and "optimizer.step" (int64 [1]); in
  /// fp16 "optimizer.loss_scale" too (fp64 [2]: scale, steps since it changed). Tensors alias the live ones: write
  /// them before the next step.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// Continues from a state of the same model, method and optimiser. The Error names the tensor that is missing or
  /// has another shape; then nothing was changed.
  Status restore(const std::map<std::string, at::Tensor>& state);

 private:
  std::vector<ParameterMask> masks_;
  TrainingSettings settings_;
  std::vector<Parameter*> parameters_;
  AdamW optimizer_;
  std::int64_t warmup_ = 0;
  std::int64_t total_steps_ = 0;
  std::int64_t steps_done_ = 0;
  LossScale loss_scale_;  // stays 1 but in fp16
};

}  // namespace finesweep::worker
