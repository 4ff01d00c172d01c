#include "worker/training/step_graphs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <optional>
#include <utility>

#include "worker/data/batch.h"
#include "worker/training/gradient_sum.h"

namespace finesweep::worker {

StepGraphs::StepGraphs(Model& model, const TrainingLoss& loss, at::Tensor sum, const Options& options)
    : model_(model),
      loss_(loss),
      options_(options),
      sum_(std::move(sum)),
      graphs_(sum_.device(), "a training step") {
  numbers_ = at::empty({16}, sum_.options().dtype(at::kByte));
  denominator_ = numbers_.narrow(0, 0, 8).view(at::kDouble);
  step_ = numbers_.narrow(0, 8, 8).view(at::kLong);
}

void StepGraphs::begin(std::int64_t step, double denominator) {
  const at::Tensor pinned = at::empty({16}, at::TensorOptions(at::kByte).pinned_memory(true));
  char* bytes = static_cast<char*>(pinned.mutable_data_ptr());
  std::memcpy(bytes, &denominator, sizeof denominator);
  std::memcpy(bytes + 8, &step, sizeof step);
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
  const Var loss = loss_.of(model_, Batch(), pass, Denominator(denominator_));
  backward(tape, loss);
  if (options_.gradients != nullptr) options_.gradients->end_pass();
  sum_.add_(loss.value);
}

bool StepGraphs::pass(const Batch& batch, std::int64_t first_row) {
  std::optional<BatchInputs> inputs = model_.inputs(batch, first_row);
  if (!inputs) return false;
  if (loss_.teacher) {
    inputs->teacher = loss_.teacher(batch);
    inputs->indexed = inputs->of_tokens;
  }
  graphs_.run(*inputs, [this](const BatchInputs& on_device) {
    run(on_device);
    return at::Tensor();
  });
  return true;
}

}  // namespace finesweep::worker
