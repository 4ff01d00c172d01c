#include "worker/training/training.h"

#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

constexpr const char* kFirstMoment = "optimizer.first_moment.";
constexpr const char* kSecondMoment = "optimizer.second_moment.";
constexpr const char* kStep = "optimizer.step";
constexpr const char* kLossScale = "optimizer.loss_scale";

AdamWOptions options_of(const TrainingSettings& settings) {
  return {settings.beta1, settings.beta2, settings.epsilon, settings.weight_decay, settings.max_grad_norm};
}

}  // namespace

double learning_rate_at(Schedule schedule, double peak, std::int64_t step, std::int64_t warmup,
                        std::int64_t total) {
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (schedule == Schedule::constant) return peak;
  const double span = static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  if (schedule == Schedule::linear) return peak * std::max(0.0, static_cast<double>(total - step) / span);
  const double progress = std::min(1.0, static_cast<double>(step - warmup) / span);
  return peak * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

Training::Training(std::vector<Parameter*> parameters, const TrainingSettings& settings, std::int64_t total_steps,
                   std::vector<ParameterMask> masks)
    : masks_(std::move(masks)),
      settings_(settings),
      parameters_(parameters),
      optimizer_(std::move(parameters), options_of(settings)),
      warmup_(settings.warmup.steps(total_steps)),
      total_steps_(total_steps) {
  if (scales_loss()) loss_scale_.scale = LossScale::first;
}

AdamWOptions Training::optimizer_options() const {
  return options_of(settings_);
}

double Training::learning_rate() const {
  return learning_rate_at(settings_.schedule, settings_.learning_rate, steps_done_, warmup_, total_steps_);
}

double Training::denominator(std::int64_t counted) const {
  return static_cast<double>(std::max<std::int64_t>(counted, 1)) / loss_scale_.scale;
}

bool Training::shrink_scale(double loss) {
  if (!std::isfinite(loss) || !loss_scale_.can_shrink()) return false;
  loss_scale_.overflowed();
  return true;
}

void Training::grow_scale() {
  if (scales_loss()) loss_scale_.stepped();
}

StepReport Training::examine(double scaled_loss) const {
  StepReport report;
  report.learning_rate = learning_rate();
  report.loss = scaled_loss / loss_scale_.scale;
  report.grad_norm = optimizer_.grad_norm() / loss_scale_.scale;
  report.finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
  return report;
}

void Training::update(const StepReport& report) {
  optimizer_.update(report.learning_rate, steps_done_ + 1, report.grad_norm, 1 / loss_scale_.scale);
  ++steps_done_;
  grow_scale();
}

void Training::mask_gradients() const {
  // What is pruned stays 0: without a gradient it has no moments, and the norm that clipping reads is that of the
  // others.
  for (const ParameterMask& mask : masks_) mask.parameter->grad.mul_(mask.mask);
}

void Training::zero_grads() {
  const ProfileScope scope("zero gradients", OperatorGroup::optimiser);
  if (parameters_.empty() || parameters_.front()->grad.is_cpu()) {
    for (Parameter* parameter : parameters_) parameter->zero_grad();
    return;
  }
  std::vector<at::Tensor> grads;
  for (const Parameter* parameter : parameters_) grads.push_back(parameter->grad);
  at::_foreach_zero_(grads);
}

std::vector<std::pair<std::string, at::Tensor>> Training::state() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const Parameter& parameter = *parameters_[p];
    const AdamW::Moments& moments = optimizer_.moments()[p];
    for (std::size_t i = 0; i < parameter.parts.size(); ++i) {
      const std::string& name = parameter.parts[i].name;
      tensors.emplace_back(name, parameter.slice(parameter.master, i));
      tensors.emplace_back(kFirstMoment + name, parameter.slice(moments.first, i));
      tensors.emplace_back(kSecondMoment + name, parameter.slice(moments.second, i));
    }
  }
  tensors.emplace_back(kStep, at::full({1}, steps_done_, at::kLong));
  if (scales_loss()) {
    at::Tensor scale = at::empty({2}, at::kDouble);
    scale.mutable_data_ptr<double>()[0] = loss_scale_.scale;
    scale.mutable_data_ptr<double>()[1] = static_cast<double>(loss_scale_.steady_steps);
    tensors.emplace_back(kLossScale, std::move(scale));
  }
  return tensors;
}

Status Training::restore(const std::map<std::string, at::Tensor>& state) {
  const auto mine = this->state();
  for (const auto& [name, tensor] : mine) {
    const auto found = state.find(name);
    if (found == state.end()) return Error{"the training state has no tensor \"" + name + "\""};
    if (found->second.sizes() != tensor.sizes() || found->second.scalar_type() != tensor.scalar_type()) {
      return Error{"tensor \"" + name + "\" of the training state has another shape or type than the model's"};
    }
  }
  for (const auto& [name, tensor] : mine) {
    if (name != kStep && name != kLossScale) tensor.copy_(state.at(name));
  }
  steps_done_ = state.at(kStep).item<std::int64_t>();
  if (scales_loss()) {
    const at::Tensor scale = state.at(kLossScale).contiguous();
    loss_scale_.scale = scale.const_data_ptr<double>()[0];
    loss_scale_.steady_steps = static_cast<std::int64_t>(scale.const_data_ptr<double>()[1]);
  }
  optimizer_.moments_changed();
  for (Parameter* parameter : parameters_) parameter->refresh_value();
  zero_grads();
  return {};
}

}  // namespace finesweep::worker
