#include "worker/training/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "worker/data/batch_part.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/matmul.h"

namespace finesweep::worker {

namespace {

/// What is trained are adapters, at least among other things.
bool adapts(Model& model) {
  const std::vector<LinearModule*> modules = model.linear_modules();
  return std::any_of(modules.begin(), modules.end(), [](const LinearModule* module) {
    return !module->branches.empty() || !module->scales.empty();
  });
}

}  // namespace

Trainer::Trainer(Model& model, std::vector<Parameter*> parameters, const TrainingSettings& settings,
                 std::int64_t total_steps, std::uint64_t seed, TrainingLoss loss, std::vector<ParameterMask> masks,
                 ProcessGroup* group)
    : model_(model),
      group_(group),
      loss_(std::move(loss)),
      seed_(seed),
      training_(std::move(parameters), settings, total_steps, std::move(masks)),
      gradients_(group == nullptr
                     ? nullptr
                     : std::make_unique<GradientSum>(training_.parameters(), *group,
                                                     GradientSum::Options{.shares_update = !adapts(model)})),
      on_device_(DeviceAdamW::available(training_.parameters())) {}

void Trainer::make_whole() {
  if (gradients_ && gradients_->shares_update())
    gradients_->make_whole(training_.parameters(), training_.moments());
}

void Trainer::settle_on_device() {
  if (device_optimizer_) return;
  fused_ = std::make_unique<FusedLora>(model_.linear_modules(),
                                       gradients_ ? FusedLora::Gradients::stay : FusedLora::Gradients::may_move);
  if (gradients_ && gradients_->shares_update()) {
    DeviceAdamW::Job share = gradients_->share(training_.parameters(), training_.moments());
    share.options = training_.optimizer_options();
    device_optimizer_ = std::make_unique<DeviceAdamW>(std::vector<DeviceAdamW::Job>{std::move(share)});
  } else {
    device_optimizer_ =
        std::make_unique<DeviceAdamW>(training_.parameters(), training_.moments(), training_.optimizer_options());
  }
  graphs_ = std::make_unique<StepGraphs>(
      model_, loss_, device_optimizer_->losses(),
      StepGraphs::Options{seed_, training_.settings().gradient_checkpointing, gradients_.get()});
}

std::vector<Trainer::Share> Trainer::shares_of(const std::vector<Batch>& batches) const {
  const std::int64_t ranks = group_ == nullptr ? 1 : group_->size();
  const std::int64_t rank = group_ == nullptr ? 0 : group_->rank();
  std::vector<Share> shares;
  std::int64_t first_row = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const std::int64_t rows = batches[i].input_ids.size(0);
    const std::int64_t turn = (rank + training_.steps_done() + static_cast<std::int64_t>(i)) % ranks;
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

std::int64_t Trainer::counted(const std::vector<Batch>& batches) const {
  std::int64_t counted = 0;
  for (const Batch& batch : batches) counted += model_.counted(batch);
  return counted;
}

Var Trainer::pass(const Share& share, double denominator, bool watched) {
  Tape tape;
  // What is computed again on the way back is no step of this tape.
  const bool recomputes = training_.settings().gradient_checkpointing;
  const auto watch = watched && !recomputes ? gradients_->watch(tape) : nullptr;
  Pass pass;
  pass.tape = &tape;
  pass.dropout = {true, seed_, training_.steps_done(), nullptr};
  pass.recompute_layers = recomputes;
  pass.first_row = share.first_row;
  const Var loss = loss_.of(model_, share.batch, pass, denominator);
  backward(tape, loss);
  if (watched) gradients_->end_pass();
  return loss;
}

double Trainer::accumulate(const std::vector<Batch>& batches) {
  const double denominator = training_.denominator(counted(batches));
  const std::vector<Share> shares = shares_of(batches);
  double sum = 0;
  for (const Share& share : shares) {
    sum += pass(share, denominator, gradients_ && &share == &shares.back()).value.item<double>();
  }
  if (gradients_) {
    const at::Tensor total = at::full({1}, sum, at::TensorOptions(at::kDouble).device(model_.device()));
    gradients_->finish(total, shares.empty() ? GradientSum::Passes::none : GradientSum::Passes::some);
    sum = total.item<double>();
  }
  training_.mask_gradients();
  return sum;
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
  const AttentionChoice attention(training_.settings().attention);
  const at::NoGradGuard no_graph;  // the tape stands in for libtorch's
  if (on_device_) {
    start_on_device(batches);
  } else {
    const std::int64_t step = training_.steps_done();
    pending_.push_back({step_here(batches), step, {}});
  }
  return {};
}

StepReport Trainer::finish() {
  Pending oldest = std::move(pending_.front());
  pending_.pop_front();
  if (!oldest.result) return oldest.report;
  const DeviceStepResult result = oldest.result->get().front();
  oldest.report.loss = result.loss;
  oldest.report.grad_norm = result.grad_norm;
  oldest.report.finite = result.finite;
  if (!result.finite) {
    // Nothing was updated since.
    training_.set_steps_done(oldest.step);
    pending_.clear();
  }
  return oldest.report;
}

void Trainer::rehearse(const std::vector<Batch>& batches) {
  if (!on_device_ || group_ != nullptr || batches.empty()) return;
  settle_on_device();
  const AttentionChoice attention(training_.settings().attention);
  const at::NoGradGuard no_graph;
  const gpu::RepeatedProducts repeats(training_.steps_left());
  graphs_->begin(training_.steps_done(), {std::numeric_limits<double>::infinity()});
  for (int times = 0; times < 2 && graphs_->captured() == 0; ++times) {
    for (const Share& share : shares_of(batches)) graphs_->pass(share.batch, share.first_row);
  }
  training_.zero_grads();
  at::Tensor(device_optimizer_->losses()).zero_();
}

void Trainer::pass_on_device(const std::vector<Batch>& batches, double denominator) {
  const gpu::RepeatedProducts repeats(training_.steps_left());
  graphs_->begin(training_.steps_done(), {denominator});
  at::Tensor losses = device_optimizer_->losses();
  const std::vector<Share> shares = shares_of(batches);
  for (const Share& share : shares) {
    if (!graphs_->pass(share.batch, share.first_row)) {
      losses.add_(pass(share, denominator, gradients_ != nullptr).value);
    }
  }
  if (gradients_) {
    gradients_->finish(losses, shares.empty() ? GradientSum::Passes::none : GradientSum::Passes::some);
  }
  training_.mask_gradients();
}

void Trainer::start_on_device(const std::vector<Batch>& batches) {
  settle_on_device();
  const std::int64_t count = counted(batches);
  Pending pending;
  pending.step = training_.steps_done();
  pending.report.learning_rate = training_.learning_rate();
  while (true) {
    pass_on_device(batches, training_.denominator(count));
    const DeviceAdamW::Step update{pending.report.learning_rate, pending.step + 1, 1 / training_.loss_scale()};
    if (gradients_ && gradients_->shares_update()) {
      device_optimizer_->update(update, *gradients_);
      gradients_->finish_update();
    } else {
      device_optimizer_->update({update});
    }
    pending.result = device_optimizer_->results();
    if (!training_.scales_loss()) break;
    // Whether the scale was too large must be known before the next step.
    const DeviceStepResult result = pending.result->get().front();
    if (result.finite) training_.grow_scale();
    if (result.finite || !training_.shrink_scale(result.loss)) break;
    ++pending.report.overflows;
    device_optimizer_->resume();
  }
  training_.set_steps_done(pending.step + 1);
  pending_.push_back(std::move(pending));
}

StepReport Trainer::step_here(const std::vector<Batch>& batches) {
  int overflows = 0;
  StepReport report = training_.examine(accumulate(batches));
  while (!report.finite && training_.shrink_scale(report.loss)) {
    ++overflows;
    training_.zero_grads();
    report = training_.examine(accumulate(batches));
  }
  report.overflows = overflows;
  if (report.finite) training_.update(report);
  training_.zero_grads();
  return report;
}

}  // namespace finesweep::worker
