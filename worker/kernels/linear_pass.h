#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Rows begin … begin + count of a linear module's weight, in `type` where they are kept in few bits.
at::Tensor weight_rows(const Parameter& weight, at::ScalarType type, std::int64_t begin, std::int64_t count);

/// grad += the sum over rows of dy [tokens, grad.size].
void add_column_sums(const at::Tensor& grad, const at::Tensor& dy);

/// mask · x.
at::Tensor masked(const at::Tensor& x, const Layout& layout, const Dropout& dropout);

/// What multiplying columns by a scale keeps, and both ways.
class ColumnScale {
 public:
  /// Numbers first … first + count of the branch's (of each job's); `layout` is that of the tokens.
  ColumnScale(const ScaleBranch& branch, Layout layout, std::int64_t first, std::int64_t count);
  bool trained() const { return scale_->trained; }
  Parameter* parameter() const { return scale_; }
  /// to [tokens, count] = from · scale; may be the same. `keeps`: a gradient of the scale will be wanted.
  void forward(const at::Tensor& from, const at::Tensor& to, bool keeps);
  /// The gradient of `from` into d_from, which may be d_to; adds to that of the scale.
  void backward(const at::Tensor& d_to, const at::Tensor& d_from) const;

 private:
  at::Tensor numbers_of(const at::Tensor& all) const;
  void forward_by_job(const at::Tensor& from, const at::Tensor& to) const;
  void backward_by_job(const at::Tensor& d_to, const at::Tensor& d_from) const;

  Parameter* scale_;
  Layout layout_;
  std::int64_t first_, count_;
  bool of_jobs_;
  at::Tensor from_;  // where the scale is trained
};

/// One use of a linear module for some of its output columns: the way there, what the way back needs, and that way.
class LinearPass {
 public:
  /// out_count -1: all from out_begin on.
  LinearPass(const LinearModule& module, Layout layout, std::int64_t out_begin, std::int64_t out_count);

  /// Something that applies to these columns is trained.
  bool trains() const;
  /// Everything that does, trained or not; may hold nulls.
  std::vector<Parameter*> parameters() const;
  /// So many columns behind those of the result's gradient are of use.
  std::int64_t room() const { return down_is_scaled_ ? module_->room() : 0; }
  /// Adapters multiply the output, so nothing may be added to it before.
  bool scales_output() const { return !scales_.empty(); }
  /// x Wᵀ + b and adapters, plus `residual` where it is defined (not together with scales_output). `keeps`: the way
  /// back will be wanted.
  at::Tensor forward(const Var& x, const DropoutRun& run, const at::Tensor& residual, bool keeps);
  /// The same through a GELU (by tanh), where a kernel of a GPU does both at once: `before` becomes what went into
  /// it. Undefined where there is none.
  at::Tensor forward_through_gelu(const Var& x, at::Tensor& before);
  /// The module, where its way back multiplies the gradient in FP8 as it comes; else null.
  const LinearModule* quantizing() const;
  /// Then: what the gradient's columns are multiplied by before they are quantised.
  at::Tensor gradient_factors() const;
  /// Then: something else than that product reads the gradient.
  bool reads_gradient() const;
  /// From the gradient of what forward gave, to x and to what is trained. Overwrites dy where nobody else holds it.
  /// `rows`: those of dy · gradient_factors in FP8, where they are known. Then the numbers of dy are read only
  /// where reads_gradient.
  void backward(at::Tensor dy, const Fp8Rows* rows = nullptr) const;

 private:
  /// The columns of an adapter that are asked for, counted from out_begin; the same rows of its parameter begin at
  /// `first`.
  struct Columns {
    std::int64_t begin = 0, count = 0, first = 0;
  };
  struct Lora {
    const LoraBranch* branch = nullptr;
    Columns columns;
    Dropout dropout;
    at::Tensor input;             // dropout(x)
    at::Tensor down;              // input Aᵀ: [tokens, rank]
    std::int64_t rank_begin = 0;  // in the module's block
    at::Tensor grad_a, grad_b;    // with room for more ranks, and so is `down` then
    at::Tensor up() const { return branch->b->value.narrow(0, columns.first, columns.count); }
    std::int64_t ranks() const { return grad_a.defined() ? grad_a.size(0) : branch->a->rows(); }
  };
  struct Scale {
    ColumnScale scale;
    Columns columns;
  };

  Columns columns_of(std::int64_t begin, std::int64_t count) const;
  at::Tensor multiply(const Parameter& weight, const Var& x, const at::Tensor& bias,
                      const at::Tensor& residual) const;
  /// Both ways through the module's block. Undefined, false: x, dy have no room for it, and nothing was done.
  at::Tensor forward_in_block(const Var& x, const at::Tensor& bias, const at::Tensor& residual, bool keeps);
  bool backward_in_block(const at::Tensor& dy) const;
  void add_to_input(const at::Tensor& dy, const at::Tensor& weight) const;
  void add_quantized_to_input(const at::Tensor& dy, const Fp8Rows* rows) const;
  void lora_backward(const Lora& lora, const at::Tensor& dy) const;
  void lora_backward_on_gpu(const Lora& lora, const at::Tensor& dy) const;
  void keep(const Var& x);

  const LinearModule* module_;
  Layout layout_;
  std::int64_t out_begin_, out_count_;
  std::vector<Lora> loras_;
  std::vector<Scale> scales_;
  bool down_is_scaled_ = false;
  std::shared_ptr<GradSlot> input_slot_;
  at::Tensor input_;  // where the weight is trained
};

}  // namespace finesweep::worker
