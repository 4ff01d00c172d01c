#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <utility>

#include "worker/kernels/cpu/activation.h"
#include "worker/kernels/cpu/norm.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/gpu/fp8.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/job_rows.h"
#include "worker/kernels/linear_pass.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"
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
    case Activation::silu:
      return cpu::ActivationKind::silu;
    default:
      return cpu::ActivationKind::gelu;
  }
}

at::Tensor activated(const at::Tensor& z, Activation activation, bool keep_z) {
  const ProfileScope scope("activation", OperatorGroup::activation);
  const bool on_gpu = gpu::has_kernels(z);
  if (!on_gpu && !has_kernels(z)) return reference::activate(z, activation);
  const at::Tensor out = keep_z ? at::empty_like(z) : z;
  if (on_gpu) {
    gpu::activate(z, out, activation);
    return out;
  }
  with_storage(z.scalar_type(), [&]<typename T>() {
    cpu::ActivationKernels<T>::forward(kind_of(activation), z.const_data_ptr<T>(), out.mutable_data_ptr<T>(),
                                       z.numel());
  });
  return out;
}

/// Something else than a product in FP8 reads the module's input.
bool reads_input(const LinearModule& module) {
  return !module.branches.empty() || !module.scales.empty() || !module.of_jobs.empty() || module.weight->trained;
}

/// The same, and its rows in FP8 where `next` is to multiply them and a kernel makes both. The numbers themselves
/// are left out where `next` does not read them.
Var activated_for(const at::Tensor& z, Activation activation, bool keep_z, const LinearModule* next) {
  const auto rows = gpu::fuses_fp8(z, activation) ? gpu::empty_fp8_for(next, z) : nullptr;
  if (rows == nullptr) return Var(activated(z, activation, keep_z));
  const ProfileScope scope("activation", OperatorGroup::activation);
  Var y(keep_z ? at::empty_like(z) : z);
  gpu::activate(z, reads_input(*next) ? y.value : at::Tensor(), *rows, activation);
  y.fp8 = rows;
  return y;
}

/// Overwrites `gradient` where nobody else holds it. `rows` becomes those of the result in FP8 where the pass
/// multiplies them; then the result itself is left out where nothing in the pass reads it.
at::Tensor activation_gradient(const at::Tensor& z, at::Tensor gradient, Activation activation,
                               const LinearPass& pass, std::shared_ptr<Fp8Rows>& rows) {
  const ProfileScope scope("activation gradient", OperatorGroup::activation);
  const bool on_gpu = gpu::has_kernels(z);
  if (!on_gpu && !has_kernels(z)) {
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
  if (on_gpu) {
    if (gpu::fuses_fp8(z, activation) && gpu::in_vectors(gradient)) rows = gpu::empty_fp8_for(pass.quantizing(), z);
    if (rows != nullptr) {
      gpu::activation_gradient(z, gradient, pass.reads_gradient() ? out : at::Tensor(), pass.gradient_factors(),
                               *rows, activation);
    } else {
      gpu::activation_gradient(z, gradient, out, activation);
    }
    return out;
  }
  with_storage(z.scalar_type(), [&]<typename T>() {
    cpu::ActivationKernels<T>::backward(kind_of(activation), z.const_data_ptr<T>(), gradient.const_data_ptr<T>(),
                                        out.mutable_data_ptr<T>(), z.numel());
  });
  return out;
}

/// The gate of z on a GPU, and its rows in FP8 as in activated_for.
Var gate_for(const at::Tensor& z, Activation activation, const LinearModule* next) {
  const ProfileScope scope("gated activation", OperatorGroup::activation);
  Var y(at::empty({z.size(0), z.size(1) / 2}, z.options()));
  const auto rows = gpu::empty_fp8_for(next, y.value);
  if (rows == nullptr) {
    gpu::gate(z, y.value, activation);
  } else {
    gpu::gate(z, reads_input(*next) ? y.value : at::Tensor(), *rows, activation);
    y.fp8 = rows;
  }
  return y;
}

/// Its gradient, and `rows` as in activation_gradient.
at::Tensor gate_gradient(const at::Tensor& z, at::Tensor gradient, Activation activation, const LinearPass& pass,
                         std::shared_ptr<Fp8Rows>& rows) {
  const ProfileScope scope("gated activation's gradient", OperatorGroup::activation);
  const at::Tensor dy = std::move(gradient).contiguous(), dz = at::empty_like(z);
  rows = gpu::empty_fp8_for(pass.quantizing(), z);
  if (rows == nullptr) {
    gpu::gate_gradient(z, dy, dz, activation);
  } else {
    gpu::gate_gradient(z, dy, pass.reads_gradient() ? dz : at::Tensor(), pass.gradient_factors(), *rows,
                       activation);
  }
  return dz;
}

/// x with its columns multiplied: IA3 on a feed-forward module.
Var scaled_input(Tape* tape, const Var& x, const ScaleBranch& branch, const Layout& layout) {
  ColumnScale scale(branch, layout, 0, x.value.size(1));
  const bool recorded = tape != nullptr && (x.needs_grad() || scale.trained());
  const at::Tensor y = at::empty_like(x.value);
  scale.forward(x.value, y, recorded);
  if (!recorded) return Var(y);
  const Var result = tape->track(y);
  tape->record([slot = result.slot, x_slot = x.slot, scale = std::move(scale)] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = std::move(slot->grad), dx = dy.use_count() == 1 ? dy : at::empty_like(dy);
    scale.backward(dy, dx);
    if (x_slot) x_slot->add(dx);
  });
  adds_to(tape, {branch.scale});
  return result;
}

Var after_input_scales(Tape* tape, Var x, const LinearModule& module, const Layout& layout) {
  for (const ScaleBranch& branch : module.scales) {
    if (branch.on_input) x = scaled_input(tape, x, branch, layout);
  }
  return x;
}

/// residual + dropout(x), in place of x.
void add_residual(const at::Tensor& x, const at::Tensor& residual, const Layout& layout, const Dropout& dropout) {
  if (gpu::has_kernels(x) && x.scalar_type() == residual.scalar_type()) {
    gpu::dropout(x, residual.contiguous(), x, layout, dropout);
    return;
  }
  if (!has_kernels(x)) {
    if (dropout.active()) x.mul_(dropout_mask(dropout, *layout, x.size(1)).to(x.options()));
    x.add_(residual);
    return;
  }
  with_storage(x.scalar_type(), [&]<typename T>() {
    cpu::NormKernels<T>::add(x.const_data_ptr<T>(), residual.const_data_ptr<T>(), x.mutable_data_ptr<T>(),
                             x.size(0), x.size(1), {layout.get(), dropout});
  });
}

}  // namespace

Var linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
           Activation activation, std::int64_t out_begin, std::int64_t out_count, const LinearModule* next) {
  if (!module.of_jobs.empty()) {
    return for_each_job(tape, x, *layout, [&](std::size_t job, const Var& mine) {
      return linear(tape, mine, *module.of_jobs[job], layout->of_job(job), run, activation, out_begin, out_count);
    });
  }
  const ProfileScope scope("linear", OperatorGroup::matrix_product);
  if (tape == nullptr && out_begin == 0 && out_count < 0) {
    const at::Tensor y = gpu::decode_linear(x.value, module, {.activation = activation});
    if (y.defined()) return Var(y);
  }
  const Var input = after_input_scales(tape, x, module, layout);
  LinearPass pass(module, layout, out_begin, out_count);
  const bool recorded = tape != nullptr && (input.needs_grad() || pass.trains());
  at::Tensor z;
  Var y;
  if (recorded && activation == Activation::gelu_tanh) y.value = pass.forward_through_gelu(input, z);
  if (!y.value.defined()) {
    z = pass.forward(input, run, {}, recorded);
    y = activation == Activation::none ? Var(z) : activated_for(z, activation, recorded, next);
  }
  if (!recorded) return y;
  Var result = tape->track(y.value);
  result.fp8 = y.fp8;
  if (activation == Activation::none) result.slot->room = pass.room();
  const std::vector<Parameter*> parameters = pass.parameters();
  tape->record([slot = result.slot, z = activation == Activation::none ? at::Tensor() : z, pass = std::move(pass),
                activation] {
    at::Tensor dy = std::move(slot->grad);
    if (!dy.defined()) return;
    std::shared_ptr<Fp8Rows> rows;
    if (activation != Activation::none) dy = activation_gradient(z, std::move(dy), activation, pass, rows);
    pass.backward(std::move(dy), rows.get());
  });
  adds_to(tape, parameters);
  return result;
}

Var linear_gated(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
                 Activation activation, const LinearModule* next) {
  const bool in_one_step = module.quantizes_inputs() && module.of_jobs.empty() && gpu::quantizes_fp8(x.value) &&
                           gpu::fuses_fp8_gate(module.weight->rows(), activation);
  if (!in_one_step) return gated(tape, linear(tape, x, module, layout, run), activation);
  const ProfileScope scope("linear", OperatorGroup::matrix_product);
  const Var input = after_input_scales(tape, x, module, layout);
  LinearPass pass(module, layout, 0, -1);
  const bool recorded = tape != nullptr && (input.needs_grad() || pass.trains());
  const at::Tensor z = pass.forward(input, run, {}, recorded);
  Var y = gate_for(z, activation, next);
  if (!recorded) return y;
  Var result = tape->track(y.value);
  result.fp8 = y.fp8;
  const std::vector<Parameter*> parameters = pass.parameters();
  tape->record([slot = result.slot, z, pass = std::move(pass), activation] {
    if (!slot->grad.defined()) return;
    std::shared_ptr<Fp8Rows> rows;
    at::Tensor dz = gate_gradient(z, std::move(slot->grad), activation, pass, rows);
    pass.backward(std::move(dz), rows.get());
  });
  adds_to(tape, parameters);
  return result;
}

Var linear_add(Tape* tape, const Var& x, const LinearModule& module, const Var& residual, const Layout& layout,
               const DropoutRun& run, const Dropout& dropout) {
  if (!module.of_jobs.empty()) {
    const std::vector<Var> residuals = split_rows(tape, residual, layout->job_tokens());
    return for_each_job(tape, x, *layout, [&](std::size_t job, const Var& mine) {
      return linear_add(tape, mine, *module.of_jobs[job], residuals[job], layout->of_job(job), run, dropout);
    });
  }
  const ProfileScope scope("linear and residual", OperatorGroup::matrix_product);
  if (tape == nullptr && !dropout.active()) {
    const at::Tensor y = gpu::decode_linear(x.value, module, {.residual = residual.value});
    if (y.defined()) return Var(y);
  }
  const Var input = after_input_scales(tape, x, module, layout);
  LinearPass pass(module, layout, 0, -1);
  const bool through = tape != nullptr && (input.needs_grad() || pass.trains());
  const at::ScalarType type = input.value.scalar_type(), sum_type = residual.value.scalar_type();
  const bool at_once = !dropout.active() && !pass.scales_output() && type == sum_type;
  const at::Tensor y = pass.forward(input, run, at_once ? residual.value : at::Tensor(), through).to(sum_type);
  if (!at_once) add_residual(y, residual.value, layout, dropout);
  if (!through && (tape == nullptr || !residual.needs_grad())) return Var(y);
  const Var result = tape->track(y);
  const std::vector<Parameter*> parameters = pass.parameters();
  tape->record(
      [slot = result.slot, residual_slot = residual.slot, pass = std::move(pass), layout, dropout, through, type] {
        const at::Tensor dy = std::move(slot->grad);
        if (!dy.defined()) return;
        if (through) pass.backward((dropout.active() ? masked(dy, layout, dropout) : dy).to(type));
        if (residual_slot) residual_slot->add(dy);
      });
  adds_to(tape, parameters);
  return result;
}

Var gated(Tape* tape, const Var& z, Activation activation) {
  const ProfileScope scope("gated activation", OperatorGroup::activation);
  if (tape == nullptr) {
    const at::Tensor y = gpu::decode_gate(z.value, activation);
    if (y.defined()) return Var(y);
  }
  if (gpu::has_kernels(z.value) && z.value.is_contiguous() && activation != Activation::none) {
    return gpu::gated(tape, z, activation);
  }
  if (!has_kernels(z.value) || activation == Activation::none) {
    return differentiate(tape, {z}, {},
                         [&](const std::vector<at::Tensor>& v) { return reference::gated(v[0], activation); });
  }
  const std::int64_t tokens = z.value.size(0), inner = z.value.size(1) / 2;
  const cpu::ActivationKind kind = kind_of(activation);
  const at::Tensor y = at::empty({tokens, inner}, z.value.options());
  with_storage(y.scalar_type(), [&]<typename T>() {
    cpu::ActivationKernels<T>::gate(kind, z.value.const_data_ptr<T>(), y.mutable_data_ptr<T>(), tokens, inner);
  });
  if (tape == nullptr || !z.needs_grad()) return Var(y);
  const Var result = tape->track(y);
  tape->record([slot = result.slot, z_slot = z.slot, z = z.value, kind, tokens, inner] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = std::move(slot->grad).contiguous(), dz = at::empty_like(z);
    with_storage(z.scalar_type(), [&]<typename T>() {
      cpu::ActivationKernels<T>::gate_backward(kind, z.const_data_ptr<T>(), dy.const_data_ptr<T>(),
                                               dz.mutable_data_ptr<T>(), tokens, inner);
    });
    z_slot->add(dz);
  });
  return result;
}

}  // namespace finesweep::worker
