#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "worker/kernels/cpu/activation.h"
#include "worker/kernels/cpu/norm.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/gemm.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

cpu::ActivationKind kind_of(Activation activation) {
  switch (activation) {
    case Activation::gelu_tanh:
      return cpu::ActivationKind::gelu_tanh;
    case Activation::relu:
      return cpu::ActivationKind::relu;
    case Activation::tanh:
      return cpu::ActivationKind::tanh;
    default:
      return cpu::ActivationKind::gelu;
  }
}

at::Tensor activated(const at::Tensor& z, Activation activation, bool keep_z) {
  if (!z.is_cpu()) return reference::activate(z, activation);
  const at::Tensor out = keep_z ? at::empty_like(z) : z;
  if (z.scalar_type() == at::kFloat) {
    cpu::activate(kind_of(activation), z.const_data_ptr<float>(), out.mutable_data_ptr<float>(), z.numel());
  } else {
    cpu::activate(kind_of(activation), z.const_data_ptr<at::BFloat16>(), out.mutable_data_ptr<at::BFloat16>(),
                  z.numel());
  }
  return out;
}

/// Overwrites `gradient` where nobody else holds it.
at::Tensor activation_gradient(const at::Tensor& z, at::Tensor gradient, Activation activation) {
  if (!z.is_cpu()) {
    Tape tape;
    const Var input = tape.track(z);
    const Var output = differentiate(&tape, {input}, {}, [&](const std::vector<at::Tensor>& values) {
      return reference::activate(values[0], activation);
    });
    output.slot->add(gradient);
    tape.backward();
    return input.slot->grad;
  }
  if (!gradient.is_contiguous()) gradient = gradient.contiguous();
  const at::Tensor out = gradient.use_count() == 1 ? gradient : at::empty_like(gradient);
  if (z.scalar_type() == at::kFloat) {
    cpu::activate_backward(kind_of(activation), z.const_data_ptr<float>(), gradient.const_data_ptr<float>(),
                           out.mutable_data_ptr<float>(), z.numel());
  } else {
    cpu::activate_backward(kind_of(activation), z.const_data_ptr<at::BFloat16>(),
                           gradient.const_data_ptr<at::BFloat16>(), out.mutable_data_ptr<at::BFloat16>(),
                           z.numel());
  }
  return out;
}

void add_column_sums(const at::Tensor& grad, const at::Tensor& dy) {
  if (!dy.is_cpu()) {
    grad.add_(at::sum(dy, {0}, false, at::kFloat));
  } else if (dy.scalar_type() == at::kFloat) {
    cpu::NormKernels<float>::column_sums(dy.const_data_ptr<float>(), dy.size(0), dy.size(1), dy.stride(0),
                                         grad.mutable_data_ptr<float>());
  } else {
    cpu::NormKernels<at::BFloat16>::column_sums(dy.const_data_ptr<at::BFloat16>(), dy.size(0), dy.size(1),
                                                dy.stride(0), grad.mutable_data_ptr<float>());
  }
}

at::Tensor masked(const at::Tensor& x, const Layout& layout, const Dropout& rate) {
  return dropout(nullptr, Var(x), layout, rate).value;
}

/// What a branch keeps for its way back, and that way.
struct BranchState {
  const LoraBranch* branch;
  Dropout dropout;
  at::Tensor input;  // dropout(x)
  at::Tensor down;   // input Aᵀ: [tokens, rank]

  /// dy: the gradient of this branch's columns. Returns the gradient of dropout(x) where it is wanted.
  at::Tensor backward(const at::Tensor& dy, bool input_wanted) const {
    const at::Tensor through = at::mm(dy, branch->b->value).mul_(branch->scale);  // [tokens, rank]
    if (branch->b->trained) add_weight_gradient(branch->b->grad, dy, at::mul(down, branch->scale));
    if (branch->a->trained) add_weight_gradient(branch->a->grad, through, input);
    return input_wanted ? through : at::Tensor();
  }
};

bool anything_trained(const LinearModule& module, const std::vector<BranchState>& branches) {
  bool trained = module.weight->trained || (module.bias != nullptr && module.bias->trained);
  for (const BranchState& state : branches) trained |= state.branch->a->trained || state.branch->b->trained;
  return trained;
}

}  // namespace

Var linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
           Activation activation, std::int64_t out_begin, std::int64_t out_count) {
  const std::int64_t width = module.weight->value.size(0);
  if (out_count < 0) out_count = width - out_begin;
  const at::Tensor weight = module.weight->value.narrow(0, out_begin, out_count);
  const at::Tensor bias =
      module.bias == nullptr ? at::Tensor() : module.bias->value.narrow(0, out_begin, out_count);
  at::Tensor z = product_with_weight(x.value, weight, bias);

  std::vector<BranchState> branches;
  for (const LoraBranch& branch : module.branches) {
    const std::int64_t begin = branch.out_begin - out_begin, count = branch.b->value.size(0);
    if (begin < 0 || begin + count > out_count) continue;
    BranchState state{&branch, make_dropout(branch.dropout, run, branch.site), x.value, {}};
    if (state.dropout.active()) state.input = masked(x.value, layout, state.dropout);
    state.down = product_with_weight(state.input, branch.a->value);
    add_product(z.narrow(1, begin, count), state.down, branch.b->value.t(), branch.scale);
    branches.push_back(std::move(state));
  }

  const bool recorded = tape != nullptr && (x.needs_grad() || anything_trained(module, branches));
  const at::Tensor y = activation == Activation::none ? z : activated(z, activation, recorded);
  if (!recorded) return Var(y);

  const Var result = tape->track(y);
  // The input is kept for the gradients of weights alone.
  const bool input_kept = module.weight->trained;
  tape->record([slot = result.slot, input_slot = x.slot, input = input_kept ? x.value : at::Tensor(),
                z = activation == Activation::none ? at::Tensor() : z, weight, &module,
                branches = std::move(branches), activation, layout, out_begin, out_count] {
    at::Tensor dy = std::move(slot->grad);
    if (!dy.defined()) return;
    if (activation != Activation::none) dy = activation_gradient(z, std::move(dy), activation);
    if (module.bias != nullptr && module.bias->trained) {
      add_column_sums(module.bias->grad.narrow(0, out_begin, out_count), dy);
    }
    if (module.weight->trained) add_weight_gradient(module.weight->grad.narrow(0, out_begin, out_count), dy, input);
    if (input_slot) input_slot->add(product_with_transposed_weight(dy, weight));
    for (const BranchState& state : branches) {
      const std::int64_t begin = state.branch->out_begin - out_begin;
      const at::Tensor through =
          state.backward(dy.narrow(1, begin, state.branch->b->value.size(0)), input_slot != nullptr);
      if (!through.defined()) continue;
      if (state.dropout.active()) {
        input_slot->add(masked(at::mm(through, state.branch->a->value), layout, state.dropout));
      } else {
        input_slot->add_product(through, state.branch->a->value);
      }
    }
  });
  return result;
}

}  // namespace finesweep::worker
