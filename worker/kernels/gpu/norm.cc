#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <utility>

#include "worker/kernels/gpu/fp8.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"

namespace finesweep::worker::gpu {
namespace {

struct Statistics {
  at::Tensor mean, inverse;
  explicit Statistics(const at::Tensor& x)
      : mean(at::empty({x.size(0)}, x.options().dtype(at::kFloat))), inverse(at::empty_like(mean)) {}
};

bool trains(const NormModule& module) {
  return module.weight->trained || (module.bias != nullptr && module.bias->trained);
}

void forward(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& y, const Fp8Rows* rows,
             const Statistics& statistics, const NormModule& module, const FinesweepDropout& input,
             const FinesweepDropout& output) {
  const FinesweepNormWeights view = kernel_view(module);
  call(&CudaModule::norm_forward, "norm", x, x.const_data_ptr(), data_or_null(residual),
       residual.defined() ? x.mutable_data_ptr() : nullptr, y.mutable_data_ptr(), y.stride(0),
       statistics.mean.mutable_data_ptr<float>(), statistics.inverse.mutable_data_ptr<float>(), x.size(0),
       x.size(1), &view, &input, &output, rows != nullptr ? rows->codes.mutable_data_ptr() : nullptr,
       rows != nullptr ? rows->scales.mutable_data_ptr<float>() : nullptr, type_of(x));
}

/// dx = the gradient of the sum, plus `add`; masked = input_mask · that gradient. Each may be undefined.
void backward(const at::Tensor& sum, const at::Tensor& dy, const Statistics& statistics, const NormModule& module,
              const at::Tensor& add, const at::Tensor& dx, const at::Tensor& masked, const FinesweepDropout& input,
              const FinesweepDropout& output) {
  const std::int64_t width = sum.size(1), rows = cuda_module()->partial_rows();
  const bool trained = trains(module);
  const at::Tensor partial = trained ? at::empty({rows, 2 * width}, sum.options().dtype(at::kFloat)) : at::Tensor();
  const FinesweepNormWeights view = kernel_view(module);
  call(&CudaModule::norm_backward, "norm's gradient", sum, sum.const_data_ptr(), dy.const_data_ptr(), dy.stride(0),
       statistics.mean.const_data_ptr<float>(), statistics.inverse.const_data_ptr<float>(), data_or_null(add),
       writable_or_null(dx), writable_or_null(masked), trained ? partial.mutable_data_ptr<float>() : nullptr,
       sum.size(0), width, &view, &input, &output, type_of(sum));
  if (!trained) return;
  const auto grad_of = [](Parameter* parameter) {
    return parameter != nullptr && parameter->trained ? parameter->grad.mutable_data_ptr<float>() : nullptr;
  };
  call(&CudaModule::add_partial, "norm's gradient", sum, partial.const_data_ptr<float>(), rows, 2 * width, width,
       grad_of(module.weight), grad_of(module.bias));
}

at::Tensor dense(const at::Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : x.contiguous();
}

/// A gradient that is there already and may be added to in the same pass: the kernel reads it and writes the sum,
/// in place where nobody else holds it.
struct Gathered {
  at::Tensor before, sum;
  Gathered(GradSlot* slot, const at::Tensor& like) {
    if (slot == nullptr) return;
    if (slot->grad.defined() && slot->grad.is_contiguous() && slot->grad.scalar_type() == like.scalar_type()) {
      before = std::move(slot->grad);
      slot->grad = at::Tensor();
      sum = before.use_count() == 1 ? before : at::empty_like(like);
    } else {
      sum = at::empty_like(like);
    }
  }
};

}  // namespace

bool computes(const at::Tensor& x, const NormModule& module) {
  return has_kernels(x) && x.is_contiguous() && cuda_module()->norm_fits(x.size(1), type_of(x)) != 0 &&
         module.weight->value.scalar_type() == at::kFloat;
}

Var norm_dropout(Tape* tape, const Var& x, const NormModule& module, const Layout& layout, const Dropout& dropout,
                 const LinearModule* next) {
  const at::Tensor y =
      empty_with_room(x.value.size(0), x.value.size(1), next != nullptr ? next->room() : 0, x.value.options());
  const auto rows = empty_fp8_for(next, y);
  const Statistics statistics(x.value);
  const FinesweepDropout output = kernel_view(dropout, layout, y.device());
  forward(x.value, {}, y, rows.get(), statistics, module, {}, output);
  const bool recorded = tape != nullptr && (x.needs_grad() || trains(module));
  Var result = recorded ? tape->track(y) : Var(y);
  result.fp8 = rows;
  if (!recorded) return result;
  tape->record([slot = result.slot, x_slot = x.slot, x = x.value, statistics, &module, output, layout] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = dense(std::move(slot->grad));
    const Gathered d(x_slot.get(), x);
    backward(x, dy, statistics, module, d.before, d.sum, {}, {}, output);
    if (x_slot) x_slot->add(d.sum);
  });
  adds_to(tape, {module.weight, module.bias});
  return result;
}

Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout, const LinearModule* next) {
  const at::Tensor y = at::empty_like(x.value);
  const auto rows = empty_fp8_for(next, y);
  const Statistics statistics(x.value);
  const FinesweepDropout input = kernel_view(dropout, layout, y.device());
  forward(x.value, residual.value.contiguous(), y, rows.get(), statistics, module, input, {});
  const bool recorded = tape != nullptr && (x.needs_grad() || residual.needs_grad() || trains(module));
  Var result = recorded ? tape->track(y) : Var(y);
  result.fp8 = rows;
  if (!recorded) return result;
  tape->record([slot = result.slot, x_slot = x.slot, residual_slot = residual.slot, sum = x.value, statistics,
                &module, input, layout] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = dense(std::move(slot->grad));
    Gathered d(residual_slot.get(), sum);
    // One tensor serves both where they are the same.
    const bool apart = x_slot != nullptr && (input.threshold != 0 || d.before.defined());
    if (!d.sum.defined() && x_slot != nullptr && !apart) d.sum = at::empty_like(sum);
    const at::Tensor masked = apart ? at::empty_like(sum) : at::Tensor();
    backward(sum, dy, statistics, module, d.before, d.sum, masked, input, {});
    if (x_slot) x_slot->add(apart ? masked : d.sum);
    if (residual_slot) residual_slot->add(d.sum);
  });
  adds_to(tape, {module.weight, module.bias});
  return result;
}

void dropout(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& to, const Layout& layout,
             const Dropout& dropout) {
  const FinesweepDropout view = kernel_view(dropout, layout, x.device());
  call(&CudaModule::dropout, "dropout", x, x.const_data_ptr(), data_or_null(residual), to.mutable_data_ptr(),
       x.size(0), x.size(1), &view, type_of(x));
}

void add_column_sums(const at::Tensor& grad, const at::Tensor& dy) {
  // Few enough parts that adding them costs little, and enough to fill the device.
  const std::int64_t columns = dy.size(1), rows = std::clamp<std::int64_t>(dy.size(0) / 64, 1, 64);
  const at::Tensor partial = at::empty({rows, columns}, dy.options().dtype(at::kFloat));
  call(&CudaModule::partial_column_sums, "column sums", dy, dy.const_data_ptr(), dy.size(0), columns, dy.stride(0),
       partial.mutable_data_ptr<float>(), rows, type_of(dy));
  call(&CudaModule::add_partial, "column sums", dy, partial.const_data_ptr<float>(), rows, columns, columns,
       grad.mutable_data_ptr<float>(), static_cast<float*>(nullptr));
}

}  // namespace finesweep::worker::gpu
