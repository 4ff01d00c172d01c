#include "worker/kernels/tape.h"

#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

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

void Tape::backward() {
  while (!steps_.empty()) {
    std::function<void()> step = std::move(steps_.back());
    steps_.pop_back();
    step();
  }
}

}  // namespace finesweep::worker
