#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace finesweep::worker {

struct Fp8Rows;  // kernels/fp8.h

/// Where the gradient of one tensor gathers on the way back. Shared by whoever made the tensor and whoever used it.
struct GradSlot {
  at::Tensor grad;  // undefined until a consumer has added to it
  /// So many columns behind those of the gradient are of use to who takes it (kernels/lora_block.h).
  std::int64_t room = 0;
  /// Adds `gradient`, in place where nobody else holds the tensor that is already there. `gradient` is no view of
  /// memory that others still write.
  void add(const at::Tensor& gradient);
  /// Adds a b.
  void add_product(const at::Tensor& a, const at::Tensor& b);
};

/// A tensor on its way through a model. `slot` is null where nothing that was trained went into it: then no
/// gradient is computed for it, nor for anything below it.
struct Var {
  at::Tensor value;
  std::shared_ptr<GradSlot> slot;
  /// The rows of `value` in FP8, where who made it quantised them too; else null.
  std::shared_ptr<const Fp8Rows> fp8;

  Var() = default;
  explicit Var(at::Tensor value) : value(std::move(value)) {}
  bool needs_grad() const { return slot != nullptr; }
};

/// The operations of one forward pass, in order, each with the way back. Not thread-safe: a pass belongs to one
/// thread. Gradients of parameters go to Parameter::grad; what a step saved is freed as soon as it has run.
class Tape {
 public:
  /// A Var that a recorded step computes a gradient for.
  Var track(at::Tensor value);
  /// Where somebody profiles, the step runs under the label of the scope that it was recorded in.
  void record(std::function<void()> backward);
  /// Runs every step, last first, and empties the tape.
  void backward();

  /// Says that the loss of the pass is where the way back begins: its gradient is 1, and an operation that computes
  /// gradients on the way forward may leave them where they belong at once.
  void set_loss_is_end() { loss_is_end_ = true; }
  bool loss_is_end() const { return loss_is_end_; }

 private:
  std::vector<std::function<void()>> steps_;
  bool loss_is_end_ = false;
};

/// Runs `compute` (tape, input) keeping nothing but its input, and runs it again on the way back: gradient
/// checkpointing (https://arxiv.org/abs/1604.06174). It must compute the same both times, and something trained
/// must go into it.
Var recomputed(Tape& tape, const Var& input, const std::function<Var(Tape*, const Var&)>& compute);

}  // namespace finesweep::worker
