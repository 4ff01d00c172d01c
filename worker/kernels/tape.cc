#include "worker/kernels/tape.h"

#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

void GradSlot::add(const at::Tensor& gradient) {
  if (!grad.defined()) {
    grad = gradient;
  } else if (grad.use_count() == 1) {
    grad.add_(gradient);
  } else {
    grad = at::add(grad, gradient);
  }
}

void GradSlot::add_product(const at::Tensor& a, const at::Tensor& b) {
  if (!grad.defined()) {
    grad = at::mm(a, b);
  } else if (grad.use_count() == 1) {
    grad.addmm_(a, b);
  } else {
    grad = at::addmm(grad, a, b);
  }
}

Var Tape::track(at::Tensor value) {
  Var var(std::move(value));
  var.slot = std::make_shared<GradSlot>();
  return var;
}

void Tape::record(std::function<void()> backward) {
  if (const ScopeListener* listener = ScopeListener::of_thread(); listener != nullptr) {
    ScopeLabel label = listener->innermost();
    label.backward = true;
    backward = [label, step = std::move(backward)] {
      const ProfileScope scope(label);
      step();
    };
  }
  steps_.push_back(std::move(backward));
  if (GradientWatch* watch = GradientWatch::of_thread()) watch->recorded(*this);
}

void Tape::backward() {
  while (!steps_.empty()) {
    std::function<void()> step = std::move(steps_.back());
    steps_.pop_back();
    step();
    if (GradientWatch* watch = GradientWatch::of_thread()) watch->ran(*this);
  }
}

Var recomputed(Tape& tape, const Var& input, const std::function<Var(Tape*, const Var&)>& compute) {
  const Var result = tape.track(compute(nullptr, Var(input.value)).value);
  tape.record([slot = result.slot, input, compute] {
    if (!slot->grad.defined()) return;
    Tape again;
    const Var start = input.needs_grad() ? again.track(input.value) : Var(input.value);
    const Var end = compute(&again, start);
    if (!end.needs_grad()) return;
    end.slot->grad = std::move(slot->grad);
    again.backward();
    if (input.needs_grad() && start.slot->grad.defined()) input.slot->add(start.slot->grad);
  });
  return result;
}

}  // namespace finesweep::worker
