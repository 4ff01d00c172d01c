#include "worker/training/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "worker/data/batch_part.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

constexpr const char* kFirstMoment = "optimizer.first_moment.";
constexpr const char* kSecondMoment = "optimizer.second_moment.";
constexpr const char* kStep = "optimizer.step";
constexpr const char* kLossScale = "optimizer.loss_scale";

AdamWOptions optimizer_options(const TrainingSettings& settings) {
  return {settings.beta1, settings.beta2, settings.epsilon, settings.weight_decay, settings.max_grad_norm};
}

bool is_scaled(const TrainingSettings& settings) {
  return settings.precision == Precision::fp16;
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

Trainer::Trainer(Model& model, std::vector<Parameter*> parameters, const TrainingSettings& settings,
                 std::int64_t total_steps, std::uint64_t seed, TrainingLoss loss, std::vector<ParameterMask> masks,
                 ProcessGroup* group)
    : model_(model),
      group_(group),
      loss_(std::move(loss)),
      masks_(std::move(masks)),
      settings_(settings),
      parameters_(parameters),
      gradients_(group == nullptr ? nullptr : std::make_unique<GradientSum>(parameters, *group)),
      optimizer_(std::move(parameters), optimizer_options(settings)),
      warmup_(settings.warmup.steps(total_steps)),
      total_steps_(total_steps),
      seed_(seed) {
  if (is_scaled(settings_)) loss_scale_.scale = LossScale::first;
  if (!DeviceAdamW::available(parameters_)) return;
  device_optimizer_ = std::make_unique<DeviceAdamW>(parameters_, optimizer_.moments(), optimizer_options(settings));
  graphs_ =
      std::make_unique<StepGraphs>(model_, loss_, device_optimizer_->loss(),
                                   StepGraphs::Options{seed_, settings.gradient_checkpointing, gradients_.get()});
}

std::vector<Trainer::Share> Trainer::shares_of(const std::vector<Batch>& batches) const {
  const std::int64_t ranks = group_ == nullptr ? 1 : group_->size();
  const std::int64_t rank = group_ == nullptr ? 0 : group_->rank();
  std::vector<Share> shares;
  std::int64_t first_row = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const std::int64_t rows = batches[i].input_ids.size(0);
    const std::int64_t turn = (rank + steps_done_ + static_cast<std::int64_t>(i)) % ranks;
    const std::int64_t begin = rows * turn / ranks, end = rows * (turn + 1) / ranks;
    if (ranks == 1) {
      shares.push_back({batches[i], first_row});
    } else if (begin < end) {
      shares.push_back({part_of(batches[i], begin, end - begin), first_row + begin});
    }
    first_row += rows;
  }
  return shares;
}

double Trainer::denominator_of(const std::vector<Batch>& batches) const {
  std::int64_t counted = 0;
  for (const Batch& batch : batches) counted += model_.counted(batch);
  return static_cast<double>(std::max<std::int64_t>(counted, 1));
}

double Trainer::accumulate(const std::vector<Batch>& batches, double loss_scale) {
  const double denominator = denominator_of(batches) / loss_scale;
  Pass pass;
  pass.dropout = {true, seed_, steps_done_, nullptr};
  pass.recompute_layers = settings_.gradient_checkpointing;
  double sum = 0;
  const std::vector<Share> shares = shares_of(batches);
  for (const Share& share : shares) {
    Tape tape;
    const bool is_last = gradients_ && &share == &shares.back();
    // What is computed again on the way back is no step of this tape.
    const auto watch = is_last && !pass.recompute_layers ? gradients_->watch(tape) : nullptr;
    pass.tape = &tape;
    pass.first_row = share.first_row;
    const Var loss = loss_.of(model_, share.batch, pass, denominator);
    backward(tape, loss);
    if (is_last) gradients_->end_pass();
    sum += loss.value.item<double>();
  }
  if (gradients_) {
    const at::Tensor total = at::full({1}, sum, at::TensorOptions(at::kDouble).device(model_.device()));
    gradients_->finish(total, shares.empty() ? GradientSum::Passes::none : GradientSum::Passes::some);
    sum = total.item<double>();
  }
  // What is pruned stays 0: without a gradient it has no moments, and the norm that clipping reads is that of the
  // others.
  for (const ParameterMask& mask : masks_) mask.parameter->grad.mul_(mask.mask);
  return sum / loss_scale;
}

void Trainer::zero_grads() {
  const ProfileScope scope("zero gradients", OperatorGroup::optimiser);
  for (Parameter* parameter : parameters_) parameter->zero_grad();
}

Result<StepReport> Trainer::step(const std::vector<Batch>& batches) {
  if (Status started = start(batches); !started) return Error{started.error()};
  while (pending_.size() > 1) finish();
  return finish();
}

Status Trainer::start(const std::vector<Batch>& batches) {
  for (const Batch& batch : batches) {
    if (Status fits = model_.check(batch); !fits) return Error{fits.error()};
  }
  const AttentionChoice attention(settings_.attention);
  const at::NoGradGuard no_graph;  // the tape stands in for libtorch's
  if (device_optimizer_) {
    start_on_device(batches);
  } else {
    const std::int64_t step = steps_done_;
    pending_.push_back({step_here(batches), step, {}, {}});
  }
  return {};
}

StepReport Trainer::finish() {
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  if (!oldest.result.defined()) return oldest.report;
  oldest.arrived->synchronize();
  const DeviceStepResult result = DeviceAdamW::read_result(oldest.result);
  oldest.report.loss = result.loss;
  oldest.report.grad_norm = result.grad_norm;
  oldest.report.finite = result.finite;
  if (!result.finite) {
    // Nothing was updated since.
    steps_done_ = oldest.step;
    pending_.clear();
  }
  return oldest.report;
}

void Trainer::pass_on_device(const std::vector<Batch>& batches, double denominator) {
  graphs_->begin(steps_done_, denominator);
  const std::vector<Share> shares = shares_of(batches);
  for (const Share& share : shares) {
    if (graphs_->pass(share.batch, share.first_row)) continue;
    Tape tape;
    const auto watch = gradients_ && !settings_.gradient_checkpointing ? gradients_->watch(tape) : nullptr;
    Pass pass;
    pass.tape = &tape;
    pass.dropout = {true, seed_, steps_done_, nullptr};
    pass.recompute_layers = settings_.gradient_checkpointing;
    pass.first_row = share.first_row;
    const Var loss = loss_.of(model_, share.batch, pass, denominator);
    backward(tape, loss);
    if (gradients_) gradients_->end_pass();
    at::Tensor sum = device_optimizer_->loss();
    sum.add_(loss.value);
  }
  if (gradients_) {
    gradients_->finish(device_optimizer_->loss(),
                       shares.empty() ? GradientSum::Passes::none : GradientSum::Passes::some);
  }
  for (const ParameterMask& mask : masks_) mask.parameter->grad.mul_(mask.mask);
}

void Trainer::start_on_device(const std::vector<Batch>& batches) {
  const double denominator = denominator_of(batches);
  Pending pending;
  pending.step = steps_done_;
  pending.report.learning_rate =
      learning_rate_at(settings_.schedule, settings_.learning_rate, steps_done_, warmup_, total_steps_);
  const c10::Device device = device_optimizer_->loss().device();
  while (true) {
    const double scale = loss_scale_.scale;
    pass_on_device(batches, denominator / scale);
    device_optimizer_->update(pending.report.learning_rate, steps_done_ + 1, 1 / scale);
    pending.result = at::empty({DeviceAdamW::result_bytes()}, at::TensorOptions(at::kByte).pinned_memory(true));
    device_optimizer_->copy_result(pending.result);
    pending.arrived = std::make_shared<c10::Event>(device.type());
    pending.arrived->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    if (!is_scaled(settings_)) break;
    // Whether the scale was too large must be known before the next step.
    pending.arrived->synchronize();
    const DeviceStepResult result = DeviceAdamW::read_result(pending.result);
    if (result.finite || !std::isfinite(result.loss) || !loss_scale_.can_shrink()) {
      if (result.finite) loss_scale_.stepped();
      break;
    }
    loss_scale_.overflowed();
    ++pending.report.overflows;
    device_optimizer_->resume();
  }
  ++steps_done_;
  pending_.push_back(std::move(pending));
}

StepReport Trainer::step_here(const std::vector<Batch>& batches) {
  StepReport report;
  report.learning_rate =
      learning_rate_at(settings_.schedule, settings_.learning_rate, steps_done_, warmup_, total_steps_);
  while (true) {
    report.loss = accumulate(batches, loss_scale_.scale);
    report.grad_norm = optimizer_.grad_norm() / loss_scale_.scale;
    report.finite = std::isfinite(report.loss) && std::isfinite(report.grad_norm);
    const bool only_scaled = !report.finite && std::isfinite(report.loss) && loss_scale_.can_shrink();
    if (!only_scaled) break;
    loss_scale_.overflowed();
    ++report.overflows;
    zero_grads();
  }
  if (report.finite) {
    optimizer_.update(report.learning_rate, steps_done_ + 1, report.grad_norm, 1 / loss_scale_.scale);
    ++steps_done_;
    if (is_scaled(settings_)) loss_scale_.stepped();
  }
  zero_grads();
  return report;
}

std::vector<std::pair<std::string, at::Tensor>> Trainer::state() const {
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
  if (is_scaled(settings_)) {
    at::Tensor scale = at::empty({2}, at::kDouble);
    scale.mutable_data_ptr<double>()[0] = loss_scale_.scale;
    scale.mutable_data_ptr<double>()[1] = static_cast<double>(loss_scale_.steady_steps);
    tensors.emplace_back(kLossScale, std::move(scale));
  }
  return tensors;
}

Status Trainer::restore(const std::map<std::string, at::Tensor>& state) {
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
  if (is_scaled(settings_)) {
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
