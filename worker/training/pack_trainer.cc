#include "worker/training/pack_trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/matmul.h"

namespace finesweep::worker {
namespace {

bool all_finite(const std::vector<StepReport>& reports) {
  return std::all_of(reports.begin(), reports.end(), [](const StepReport& report) { return report.finite; });
}

std::vector<Model*> models_of(const std::vector<PackedTraining>& jobs) {
  std::vector<Model*> models;
  for (const PackedTraining& job : jobs) models.push_back(job.model);
  return models;
}

}  // namespace

Status check_trainable_in_pack(Model& host, Model& model, const std::vector<Parameter*>& trained) {
  if (Status fits = check_packable(host, model); !fits) return fits;
  if (model.device().is_cpu() || DeviceAdamW::available(trained)) return {};
  return Error{"no kernels of this GPU train it"};
}

PackTrainer::PackTrainer(Model& host, std::vector<PackedTraining> jobs)
    : host_(host), jobs_(std::move(jobs)), left_out_(jobs_.size(), false), modules_(host_, models_of(jobs_)) {
  if (!host_.device().is_cpu()) prepare_on_device();
}

void PackTrainer::prepare_on_device() {
  std::vector<DeviceAdamW::Job> jobs;
  for (const PackedTraining& job : jobs_) {
    DeviceAdamW::Job& of = jobs.emplace_back();
    of.options = job.training->optimizer_options();
    const std::vector<Parameter*>& parameters = job.training->parameters();
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      const PackViews views = modules_.views(parameters[p]);
      of.tensors.push_back({parameters[p], &job.training->moments()[p], views.grad, views.value});
    }
    job.training->zero_grads();
  }
  optimizer_ = std::make_unique<DeviceAdamW>(jobs, modules_.broken());
  const bool recompute = jobs_.front().training->settings().gradient_checkpointing;
  graphs_ = std::make_unique<StepGraphs>(host_, loss_, optimizer_->losses(), StepGraphs::Options{0, recompute});
}

std::vector<double> PackTrainer::denominators(const std::vector<std::vector<Batch>>& batches) const {
  std::vector<double> all;
  for (std::size_t j = 0; j < jobs_.size(); ++j) {
    std::int64_t counted = 0;
    for (const Batch& batch : batches[j]) counted += jobs_[j].model->counted(batch);
    // The loss of a training that is left out counts nothing: so its rows and the shape of the pass may stay.
    all.push_back(left_out_[j] ? std::numeric_limits<double>::infinity() : jobs_[j].training->denominator(counted));
  }
  return all;
}

BatchInputs PackTrainer::inputs_of(const std::vector<std::vector<Batch>>& batches, std::size_t i,
                                   const std::vector<std::int64_t>& first_rows) {
  std::vector<JobInputs> inputs;
  for (std::size_t j = 0; j < jobs_.size(); ++j) {
    JobInputs& one = inputs.emplace_back();
    one.seed = jobs_[j].seed;
    one.step = jobs_[j].training->steps_done();
    if (i < batches[j].size()) one.inputs = host_.inputs(batches[j][i], first_rows[j]);
  }
  return pack_inputs(inputs);
}

template <typename PassWork>
void PackTrainer::for_each_pass(const std::vector<std::vector<Batch>>& batches, const PassWork& pass) {
  std::size_t passes = 0;
  for (const auto& of_job : batches) passes = std::max(passes, of_job.size());
  std::vector<std::int64_t> first_rows(jobs_.size(), 0);
  for (std::size_t i = 0; i < passes; ++i) {
    pass(inputs_of(batches, i, first_rows));
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      if (i < batches[j].size()) first_rows[j] += batches[j][i].input_ids.size(0);
    }
  }
}

std::vector<double> PackTrainer::accumulate(const std::vector<std::vector<Batch>>& batches) {
  const Denominator divisors(at::tensor(denominators(batches), at::kDouble));
  std::vector<double> losses(jobs_.size(), 0);
  for_each_pass(batches, [&](const BatchInputs& inputs) {
    Tape tape;
    Pass pass;
    pass.tape = &tape;
    pass.dropout.active = true;
    pass.recompute_layers = jobs_.front().training->settings().gradient_checkpointing;
    pass.inputs = &inputs;
    const Var loss = host_.loss(Batch(), pass, divisors);
    backward(tape, loss);
    for (std::size_t j = 0; j < losses.size(); ++j) {
      losses[j] += loss.value[static_cast<std::int64_t>(j)].item<double>();
    }
  });
  for (const PackedTraining& job : jobs_) job.training->mask_gradients();
  return losses;
}

bool PackTrainer::shrink_scales(std::vector<StepReport>& reports) const {
  bool all = true;
  for (std::size_t j = 0; j < jobs_.size(); ++j) {
    if (reports[j].finite) continue;
    if (jobs_[j].training->shrink_scale(reports[j].loss)) {
      ++reports[j].overflows;
    } else {
      all = false;
    }
  }
  return all;
}

std::vector<StepReport> PackTrainer::step_here(const std::vector<std::vector<Batch>>& batches) {
  std::vector<StepReport> reports(jobs_.size());
  bool again = true;
  while (again) {
    const std::vector<double> losses = accumulate(batches);
    for (std::size_t j = 0; j < jobs_.size(); ++j) {
      const int overflows = reports[j].overflows;
      reports[j] = jobs_[j].training->examine(losses[j]);
      reports[j].overflows = overflows;
    }
    const bool done = all_finite(reports);
    for (std::size_t j = 0; done && j < jobs_.size(); ++j) jobs_[j].training->update(reports[j]);
    again = !done && shrink_scales(reports);
    for (const PackedTraining& job : jobs_) job.training->zero_grads();
  }
  return reports;
}

void PackTrainer::start(const std::vector<std::vector<Batch>>& batches) {
  const AttentionChoice attention(jobs_.front().training->settings().attention);
  const at::NoGradGuard no_graph;  // the tape stands in for libtorch's
  if (optimizer_) {
    start_on_device(batches);
  } else {
    pending_.push_back({step_here(batches), {}, {}});
  }
}

std::int64_t PackTrainer::steps_left() const {
  std::int64_t left = 1;
  for (const PackedTraining& job : jobs_) left = std::max(left, job.training->steps_left());
  return left;
}

void PackTrainer::rehearse(const std::vector<std::vector<Batch>>& batches) {
  if (!graphs_) return;
  const AttentionChoice attention(jobs_.front().training->settings().attention);
  const at::NoGradGuard no_graph;
  const gpu::RepeatedProducts repeats(steps_left());
  graphs_->begin(0, std::vector<double>(jobs_.size(), std::numeric_limits<double>::infinity()));
  for (int times = 0; times < 2 && graphs_->captured() == 0; ++times) {
    for_each_pass(batches, [&](const BatchInputs& inputs) { graphs_->pass(inputs); });
  }
  for (const PackedTraining& job : jobs_) {
    job.training->zero_grads();
    for (const Parameter* parameter : job.training->parameters()) {
      if (const at::Tensor grad = modules_.views(parameter).grad; grad.defined()) grad.zero_();
    }
  }
  at::Tensor(optimizer_->losses()).zero_();
  at::Tensor(modules_.broken()).zero_();
}

void PackTrainer::give_to_device(const std::vector<std::vector<Batch>>& batches, Pending& pending) {
  const gpu::RepeatedProducts repeats(steps_left());
  graphs_->begin(0, denominators(batches));
  for_each_pass(batches, [&](const BatchInputs& inputs) { graphs_->pass(inputs); });
  std::vector<DeviceAdamW::Step> steps;
  for (std::size_t j = 0; j < jobs_.size(); ++j) {
    const Training& training = *jobs_[j].training;
    for (const ParameterMask& mask : training.masks()) {
      const at::Tensor grad = modules_.views(mask.parameter).grad;
      (grad.defined() ? grad : mask.parameter->grad).mul_(mask.mask);
    }
    steps.push_back({pending.reports[j].learning_rate, pending.steps[j] + 1, 1 / training.loss_scale()});
  }
  optimizer_->update(steps);
  pending.results = optimizer_->results();
}

void PackTrainer::read(const Pending& pending, std::vector<StepReport>& reports) {
  const std::vector<DeviceStepResult> results = pending.results->get();
  // A number that is not finite spreads over the gradients of all ranks, but its own job is known: by its loss, or
  // since the way back met it there. Only where there is none such is a gradient's norm its job's own.
  const auto began_here = [](const DeviceStepResult& one) { return one.broken || !std::isfinite(one.loss); };
  const bool spread = std::any_of(results.begin(), results.end(), began_here);
  for (std::size_t j = 0; j < results.size(); ++j) {
    reports[j].loss = results[j].loss;
    reports[j].grad_norm = results[j].grad_norm;
    reports[j].finite = spread ? !began_here(results[j]) : results[j].finite;
  }
}

void PackTrainer::start_on_device(const std::vector<std::vector<Batch>>& batches) {
  Pending pending;
  for (const PackedTraining& job : jobs_) {
    pending.steps.push_back(job.training->steps_done());
    pending.reports.emplace_back().learning_rate = job.training->learning_rate();
  }
  give_to_device(batches, pending);
  // Whether a scale was too large must be known before the next step.
  while (jobs_.front().training->scales_loss()) {
    read(pending, pending.reports);
    if (all_finite(pending.reports)) {
      for (const PackedTraining& job : jobs_) job.training->grow_scale();
      break;
    }
    if (!shrink_scales(pending.reports)) break;
    optimizer_->resume();
    give_to_device(batches, pending);
  }
  for (const PackedTraining& job : jobs_) job.training->set_steps_done(job.training->steps_done() + 1);
  pending_.push_back(std::move(pending));
}

std::vector<StepReport> PackTrainer::finish() {
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  if (!oldest.results) return oldest.reports;
  read(oldest, oldest.reports);
  if (all_finite(oldest.reports)) return oldest.reports;
  // Nothing was updated since.
  for (std::size_t j = 0; j < jobs_.size(); ++j) jobs_[j].training->set_steps_done(oldest.steps[j]);
  pending_.clear();
  optimizer_->resume();
  return oldest.reports;
}

void PackTrainer::leave_out(std::size_t job) {
  left_out_[job] = true;
  modules_.leave_out(job);
  const Training& training = *jobs_[job].training;
  for (std::size_t p = 0; p < training.parameters().size(); ++p) {
    Parameter& parameter = *training.parameters()[p];
    parameter.master.zero_();
    parameter.refresh_value();
    training.moments()[p].first.zero_();
    training.moments()[p].second.zero_();
  }
}

void PackTrainer::settle() {
  if (!optimizer_) return;
  for (const PackedTraining& job : jobs_) {
    for (Parameter* parameter : job.training->parameters()) parameter->refresh_value();
  }
}

}  // namespace finesweep::worker
