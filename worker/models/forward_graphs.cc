#include "worker/models/forward_graphs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <optional>

#include "worker/data/batch.h"
#include "worker/kernels/gpu/kernels.h"

namespace finesweep::worker {

ForwardGraphs::ForwardGraphs(Model& model)
    : model_(model),
      logits_(model.device(), "an evaluation's pass"),
      losses_(model.device(), "an evaluation's pass") {
  if (!gpu::has_kernels(model.compute_type(), model.device())) return;
  denominator_ = at::empty({1}, at::TensorOptions(at::kDouble).device(model.device()));
}

at::Tensor ForwardGraphs::logits(const Batch& batch) {
  const at::NoGradGuard no_graph;
  const std::optional<BatchInputs> inputs =
      denominator_.defined() ? model_.inputs(batch, 0) : std::optional<BatchInputs>();
  if (!inputs) return model_.logits(batch, Pass()).value;
  return logits_.run(*inputs, [&](const BatchInputs& on_device) {
    Pass pass;
    pass.inputs = &on_device;
    return model_.logits(Batch(), pass).value;
  });
}

double ForwardGraphs::loss(const Batch& batch, double denominator) {
  const at::NoGradGuard no_graph;
  const std::optional<BatchInputs> inputs =
      denominator_.defined() ? model_.inputs(batch, 0) : std::optional<BatchInputs>();
  if (!inputs) return model_.loss(batch, Pass(), denominator).value.item<double>();
  denominator_.fill_(denominator);
  const at::Tensor result = losses_.run(*inputs, [&](const BatchInputs& on_device) {
    Pass pass;
    pass.inputs = &on_device;
    return model_.loss(Batch(), pass, Denominator(denominator_)).value;
  });
  return result.item<double>();
}

}  // namespace finesweep::worker
