#include "worker/models/forward_graphs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <optional>
#include <string>

#include "worker/data/batch.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/upload.h"

namespace finesweep::worker {

namespace {

BatchGraphs::Kind kind_of(Model& model, std::size_t jobs) {
  return {"an evaluation's pass", structure_of(model) + (jobs > 1 ? " in a pack" : ""), ranks_of(model)};
}

}  // namespace

ForwardGraphs::ForwardGraphs(Model& model, std::size_t jobs, int captured_from)
    : model_(model),
      logits_(model.device(), kind_of(model, jobs), captured_from),
      losses_(model.device(), kind_of(model, jobs), captured_from) {
  if (!gpu::has_kernels(model.compute_type(), model.device())) return;
  denominators_ =
      at::empty({static_cast<std::int64_t>(jobs)}, at::TensorOptions(at::kDouble).device(model.device()));
}

at::Tensor ForwardGraphs::logits(const Batch& batch) {
  const at::NoGradGuard no_graph;
  const std::optional<BatchInputs> inputs =
      denominators_.defined() ? model_.inputs(batch, 0) : std::optional<BatchInputs>();
  return inputs ? logits(*inputs) : model_.logits(batch, Pass()).value;
}

at::Tensor ForwardGraphs::loss(const Batch& batch, double denominator) {
  const at::NoGradGuard no_graph;
  const std::optional<BatchInputs> inputs =
      denominators_.defined() ? model_.inputs(batch, 0) : std::optional<BatchInputs>();
  return inputs ? losses(*inputs, {denominator}) : model_.loss(batch, Pass(), denominator).value;
}

at::Tensor ForwardGraphs::logits(const BatchInputs& inputs) {
  const at::NoGradGuard no_graph;
  const auto work = [this](const BatchInputs& there) {
    Pass pass;
    pass.inputs = &there;
    return model_.logits(Batch(), pass).value;
  };
  return denominators_.defined() ? logits_.run(inputs, work) : work(inputs);
}

at::Tensor ForwardGraphs::losses(const BatchInputs& inputs, const std::vector<double>& denominators) {
  const at::NoGradGuard no_graph;
  const auto work = [this](const BatchInputs& there, const at::Tensor& divisors) {
    Pass pass;
    pass.inputs = &there;
    return model_.loss(Batch(), pass, Denominator(divisors)).value;
  };
  const at::Tensor divisors = at::tensor(denominators, at::kDouble);
  if (!denominators_.defined()) return work(inputs, divisors);
  upload(divisors, denominators_);
  return losses_.run(inputs, [&](const BatchInputs& there) { return work(there, denominators_); });
}

}  // namespace finesweep::worker
