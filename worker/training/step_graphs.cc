#include "worker/training/step_graphs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "worker/data/batch.h"
#include "worker/training/gradient_sum.h"

namespace finesweep::worker {

namespace {

BatchGraphs::Kind kind_of(Model& model, const at::Tensor& losses, const StepGraphs::Options& options) {
  const std::string structure = structure_of(model) + (losses.numel() > 1 ? " in a pack" : "") +
                                (options.recompute_layers ? " recomputed" : "");
  return {"a training step", structure, ranks_of(model)};
}

}  // namespace

StepGraphs::StepGraphs(Model& model, const TrainingLoss& loss, at::Tensor losses, const Options& options)
    : model_(model),
      loss_(loss),
      options_(options),
      losses_(std::move(losses)),
      graphs_(losses_.device(), kind_of(model, losses_, options)) {
  const std::int64_t bytes = 8 * losses_.numel();
  numbers_ = at::empty({bytes + 8}, losses_.options().dtype(at::kByte));
  denominators_ = numbers_.narrow(0, 0, bytes).view(at::kDouble);
  step_ = numbers_.narrow(0, bytes, 8).view(at::kLong);
}

void StepGraphs::begin(std::int64_t step, const std::vector<double>& denominators) {
  const at::Tensor pinned = at::empty(numbers_.sizes(), at::TensorOptions(at::kByte).pinned_memory(true));
  char* bytes = static_cast<char*>(pinned.mutable_data_ptr());
  std::memcpy(bytes, denominators.data(), 8 * denominators.size());
  std::memcpy(bytes + 8 * denominators.size(), &step, sizeof step);
  numbers_.copy_(pinned, /*non_blocking=*/true);
}

void StepGraphs::run(const BatchInputs& inputs) {
  const at::NoGradGuard no_graph;
  Tape tape;
  tape.set_loss_is_end();
  const bool watched = options_.gradients != nullptr && !options_.recompute_layers;
  const auto watch = watched ? options_.gradients->watch(tape) : nullptr;
  Pass pass;
  pass.tape = &tape;
  pass.dropout = {true, options_.seed, 0, step_.const_data_ptr<std::int64_t>()};
  pass.recompute_layers = options_.recompute_layers;
  pass.inputs = &inputs;
  const Var loss = loss_.of(model_, Batch(), pass, Denominator(denominators_));
  backward(tape, loss);
  if (options_.gradients != nullptr) options_.gradients->end_pass();
  losses_.add_(loss.value);
}

bool StepGraphs::pass(const Batch& batch, std::int64_t first_row) {
  std::optional<BatchInputs> inputs = model_.inputs(batch, first_row);
  if (!inputs) return false;
  if (loss_.teacher) {
    inputs->teacher = loss_.teacher(batch);
    inputs->indexed = inputs->of_tokens;
  }
  pass(*inputs);
  return true;
}

void StepGraphs::pass(const BatchInputs& inputs) {
  graphs_.run(inputs, [this](const BatchInputs& on_device) {
    run(on_device);
    return at::Tensor();
  });
}

}  // namespace finesweep::worker
