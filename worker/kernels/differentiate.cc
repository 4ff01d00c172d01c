#include "worker/kernels/differentiate.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "worker/kernels/gradient_watch.h"

namespace finesweep::worker {
namespace {

/// Gradients are added to in place: libtorch may give a view of memory that others hold, or an expanded one.
at::Tensor owned(const at::Tensor& gradient) {
  const bool alone = gradient.is_contiguous() && gradient.storage().use_count() == 1;
  return alone ? gradient : gradient.clone(at::MemoryFormat::Contiguous);
}

}  // namespace

Var differentiate(Tape* tape, const std::vector<Var>& inputs, const std::vector<Parameter*>& parameters,
                  const std::function<at::Tensor(const std::vector<at::Tensor>&)>& compute) {
  std::vector<at::Tensor> values;
  std::vector<std::size_t> wanted;  // indices of values that get a gradient
  for (const Var& input : inputs) {
    if (tape != nullptr && input.needs_grad()) wanted.push_back(values.size());
    values.push_back(input.value.detach());
  }
  for (const Parameter* parameter : parameters) {
    if (parameter == nullptr) {
      values.emplace_back();
      continue;
    }
    if (tape != nullptr && parameter->trained) wanted.push_back(values.size());
    values.push_back(parameter->value.detach());
  }
  if (wanted.empty()) {
    const at::NoGradGuard off;
    return Var(compute(values));
  }
  std::vector<at::Tensor> leaves;
  for (const std::size_t i : wanted) leaves.push_back(values[i].requires_grad_(true));
  at::Tensor output;
  {
    const at::AutoGradMode on(true);
    output = compute(values);
  }
  const Var result = tape->track(output.detach());
  tape->record([=] {
    if (!result.slot->grad.defined()) return;
    const std::vector<at::Tensor> gradients = torch::autograd::grad({output}, leaves, {result.slot->grad});
    for (std::size_t k = 0; k < wanted.size(); ++k) {
      if (wanted[k] < inputs.size()) {
        inputs[wanted[k]].slot->add(owned(gradients[k]));
      } else {
        parameters[wanted[k] - inputs.size()]->grad.add_(gradients[k]);
      }
    }
  });
  adds_to(tape, parameters);
  return result;
}

}  // namespace finesweep::worker
