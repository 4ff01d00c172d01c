#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker::gpu {

at::Tensor sum_of_rows(const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
                       const at::Tensor& types) {
  const at::Tensor& words = module.words->value;
  const at::Tensor sum = at::empty({ids.size(0), words.size(1)}, words.options());
  const void* tables[3] = {};
  const std::int64_t* numbers[3] = {};
  const auto set = [&](int place, const Parameter* table, const at::Tensor& of) {
    if (table == nullptr) return;
    tables[place] = table->value.const_data_ptr();
    numbers[place] = of.const_data_ptr<std::int64_t>();
  };
  set(0, module.words, ids);
  set(1, module.types, types);
  set(2, module.positions, positions);
  call(&CudaModule::gather_rows, "embedding", sum, tables, numbers, sum.mutable_data_ptr(), sum.size(0),
       sum.size(1), type_of(sum));
  return sum;
}

void concatenate(const std::vector<at::Tensor>& from, const at::Tensor& to) {
  FinesweepColumns columns{};
  for (std::size_t i = 0; i < from.size(); ++i) {
    columns.from[i] = from[i].const_data_ptr();
    columns.stride[i] = from[i].stride(0);
    columns.width[i] = from[i].size(1);
  }
  call(&CudaModule::concatenate, "gradients side by side", to, &columns, to.mutable_data_ptr(), to.stride(0),
       to.size(0), type_of(to));
}

void add_rows(const at::Tensor& gradient, const at::Tensor& ids, std::int64_t skipped, const at::Tensor& grad) {
  const at::Tensor from = gradient.contiguous();
  call(&CudaModule::add_rows, "embedding's gradient", from, from.const_data_ptr(),
       ids.const_data_ptr<std::int64_t>(), skipped, grad.mutable_data_ptr<float>(), from.size(0), from.size(1),
       type_of(from));
}

Var mean_tokens(Tape* tape, const Var& x, const Layout& layout) {
  const at::Tensor starts = layout->on(x.value.device()).starts, from = x.value.contiguous();
  const std::int64_t rows = layout->rows, width = from.size(1);
  const at::Tensor y = at::empty({rows, width}, from.options());
  call(&CudaModule::mean_forward, "pooling", y, from.const_data_ptr(), starts.const_data_ptr<std::int32_t>(),
       y.mutable_data_ptr(), rows, width, type_of(y));
  if (tape == nullptr || !x.needs_grad()) return Var(y);
  const Var result = tape->track(y);
  tape->record([slot = result.slot, x_slot = x.slot, starts, rows, width, tokens = from.size(0)] {
    if (!slot->grad.defined()) return;
    const at::Tensor dy = std::move(slot->grad).contiguous(), dx = at::zeros({tokens, width}, dy.options());
    call(&CudaModule::mean_backward, "pooling's gradient", dy, dy.const_data_ptr(),
         starts.const_data_ptr<std::int32_t>(), dx.mutable_data_ptr(), rows, width, type_of(dy));
    x_slot->add(dx);
  });
  return result;
}

at::Tensor few_outputs(const at::Tensor& x, const LinearModule& module) {
  constexpr std::int64_t kMost = 64;
  if (!has_kernels(x) || !module.branches.empty() || !module.scales.empty() || !module.of_jobs.empty()) return {};
  if (module.weight->quantized != nullptr || x.dim() != 2 || x.numel() == 0) return {};
  const auto fits = [&](const at::Tensor& values) {
    return values.scalar_type() == at::kFloat && values.device() == x.device() && values.is_contiguous();
  };
  const at::Tensor& weight = module.weight->value;
  if (!fits(weight) || weight.size(0) > kMost || (module.bias != nullptr && !fits(module.bias->value))) return {};
  const at::Tensor from = x.contiguous();
  const at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options().dtype(at::kFloat));
  call(&CudaModule::few_outputs, "a head's product", from, from.const_data_ptr(), x.size(0), x.size(1),
       weight.const_data_ptr<float>(),
       module.bias != nullptr ? module.bias->value.const_data_ptr<float>() : nullptr, weight.size(0),
       y.mutable_data_ptr<float>(), type_of(from));
  return y;
}

}  // namespace finesweep::worker::gpu
