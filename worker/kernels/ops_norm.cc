#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "worker/kernels/cpu/norm.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/norm_dropout.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

/// The statistics of a norm's tokens.
struct Statistics {
  at::Tensor mean, inverse;
  explicit Statistics(std::int64_t tokens)
      : mean(at::empty({tokens}, at::kFloat)), inverse(at::empty({tokens}, at::kFloat)) {}
};

at::Tensor mask_or_none(const Dropout& dropout, const Layout& layout, std::int64_t width) {
  return dropout.active() ? dropout_mask(dropout, *layout, width) : at::Tensor();
}

float* grad_or_null(const Parameter* parameter) {
  return parameter != nullptr && parameter->trained ? parameter->grad.mutable_data_ptr<float>() : nullptr;
}

cpu::NormWeights weights_of(const NormModule& module) {
  return {module.weight->value.const_data_ptr<float>(),
          module.bias == nullptr ? nullptr : module.bias->value.const_data_ptr<float>(),
          static_cast<float>(module.epsilon), module.kind == NormKind::layer};
}

bool trains(const NormModule& module) {
  return module.weight->trained || (module.bias != nullptr && module.bias->trained);
}

template <typename T>
Var add_norm_on_cpu(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
                    const Dropout& dropout) {
  using Kernels = cpu::NormKernels<T>;
  const std::int64_t tokens = x.value.size(0), width = x.value.size(1);
  const at::Tensor y = at::empty_like(x.value);
  const Statistics statistics(tokens);
  Kernels::add_norm(x.value.mutable_data_ptr<T>(), residual.value.const_data_ptr<T>(), weights_of(module),
                    y.mutable_data_ptr<T>(), statistics.mean.mutable_data_ptr<float>(),
                    statistics.inverse.mutable_data_ptr<float>(), tokens, width, {layout.get(), dropout});
  if (tape == nullptr || !(x.needs_grad() || residual.needs_grad() || trains(module))) return Var(y);

  const Var result = tape->track(y);
  tape->record([slot = result.slot, x_slot = x.slot, residual_slot = residual.slot, sum = x.value, statistics,
                &module, layout, dropout, tokens, width] {
    const at::Tensor dy = std::move(slot->grad);
    if (!dy.defined()) return;
    const at::Tensor d_sum = at::empty_like(sum);
    const bool masked = x_slot != nullptr && dropout.active();
    const at::Tensor dx = masked ? at::empty_like(sum) : d_sum;
    Kernels::backward(sum.const_data_ptr<T>(), dy.contiguous().template const_data_ptr<T>(), weights_of(module),
                      statistics.mean.const_data_ptr<float>(), statistics.inverse.const_data_ptr<float>(),
                      d_sum.mutable_data_ptr<T>(), masked ? dx.mutable_data_ptr<T>() : nullptr,
                      grad_or_null(module.weight), grad_or_null(module.bias), tokens, width,
                      {layout.get(), dropout}, {});
    if (x_slot) x_slot->add(dx);
    if (residual_slot) residual_slot->add(d_sum);
  });
  adds_to(tape, {module.weight, module.bias});
  return result;
}

template <typename T>
Var norm_on_cpu(Tape* tape, const Var& x, const NormModule& module, const Layout& layout, const Dropout& dropout) {
  using Kernels = cpu::NormKernels<T>;
  const std::int64_t tokens = x.value.size(0), width = x.value.size(1);
  const at::Tensor y = at::empty_like(x.value);
  const Statistics statistics(tokens);
  Kernels::norm_dropout(x.value.const_data_ptr<T>(), weights_of(module), y.mutable_data_ptr<T>(),
                        statistics.mean.mutable_data_ptr<float>(), statistics.inverse.mutable_data_ptr<float>(),
                        tokens, width, {layout.get(), dropout});
  if (tape == nullptr || !(x.needs_grad() || trains(module))) return Var(y);
  const Var result = tape->track(y);
  tape->record(
      [slot = result.slot, x_slot = x.slot, x = x.value, statistics, &module, layout, dropout, tokens, width] {
        const at::Tensor dy = std::move(slot->grad);
        if (!dy.defined()) return;
        const at::Tensor dx = at::empty_like(x);
        Kernels::backward(x.const_data_ptr<T>(), dy.contiguous().template const_data_ptr<T>(), weights_of(module),
                          statistics.mean.const_data_ptr<float>(), statistics.inverse.const_data_ptr<float>(),
                          dx.mutable_data_ptr<T>(), nullptr, grad_or_null(module.weight), grad_or_null(module.bias),
                          tokens, width, {}, {layout.get(), dropout});
        if (x_slot) x_slot->add(dx);
      });
  adds_to(tape, {module.weight, module.bias});
  return result;
}

}  // namespace

Var norm_dropout(Tape* tape, const Var& x, const NormModule& module, const Layout& layout, const Dropout& dropout) {
  const ProfileScope scope("norm", OperatorGroup::normalisation);
  if (gpu::computes(x.value, module)) return gpu::norm_dropout(tape, x, module, layout, dropout);
  if (has_kernels(x.value)) {
    return with_storage(x.value.scalar_type(),
                        [&]<typename T>() { return norm_on_cpu<T>(tape, x, module, layout, dropout); });
  }
  if (tape == nullptr && !dropout.active()) {
    const at::Tensor y = gpu::decode_norm(x.value, module);
    if (y.defined()) return Var(y);
  }
  const at::Tensor mask = mask_or_none(dropout, layout, x.value.size(1));
  return differentiate(tape, {x}, {module.weight, module.bias}, [&](const std::vector<at::Tensor>& v) {
    return reference::norm(v[0], v[1], v[2], module.kind, module.epsilon, mask);
  });
}

Var norm(Tape* tape, const Var& x, const NormModule& module, const LinearModule* next) {
  if (next != nullptr && gpu::computes(x.value, module)) {
    const ProfileScope scope("norm", OperatorGroup::normalisation);
    return gpu::norm_dropout(tape, x, module, nullptr, {}, next);
  }
  return norm_dropout(tape, x, module, nullptr, {});
}

Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout, const LinearModule* next) {
  const ProfileScope scope("residual and norm", OperatorGroup::normalisation);
  if (gpu::computes(x.value, module) && x.value.scalar_type() == residual.value.scalar_type()) {
    return gpu::add_norm(tape, x, residual, module, layout, dropout, next);
  }
  if (has_kernels(x.value)) {
    return with_storage(x.value.scalar_type(), [&]<typename T>() {
      return add_norm_on_cpu<T>(tape, x, residual, module, layout, dropout);
    });
  }
  const at::Tensor mask = mask_or_none(dropout, layout, x.value.size(1));
  return differentiate(tape, {x, residual}, {module.weight, module.bias}, [&](const std::vector<at::Tensor>& v) {
    return reference::norm(reference::add(v[0], v[1], mask), v[2], v[3], module.kind, module.epsilon, {});
  });
}

Var dropout(Tape* tape, const Var& x, const Layout& layout, const Dropout& dropout) {
  if (!dropout.active()) return x;
  const auto masked = [layout, dropout](const at::Tensor& from) {
    const std::int64_t tokens = from.size(0), width = from.size(1);
    if (gpu::has_kernels(from)) {
      const at::Tensor source = from.contiguous(), to = at::empty_like(source);
      gpu::dropout(source, {}, to, layout, dropout);
      return to;
    }
    if (!has_kernels(from)) return from * dropout_mask(dropout, *layout, width).to(from.options());
    const at::Tensor source = from.contiguous(), to = at::empty_like(source);
    with_storage(from.scalar_type(), [&]<typename T>() {
      cpu::NormKernels<T>::dropout(source.const_data_ptr<T>(), to.mutable_data_ptr<T>(), tokens, width,
                                   {layout.get(), dropout});
    });
    return to;
  };
  if (tape == nullptr || !x.needs_grad()) return Var(masked(x.value));
  const Var result = tape->track(masked(x.value));
  tape->record([slot = result.slot, x_slot = x.slot, masked] {
    if (slot->grad.defined()) x_slot->add(masked(std::move(slot->grad)));
  });
  return result;
}

}  // namespace finesweep::worker
