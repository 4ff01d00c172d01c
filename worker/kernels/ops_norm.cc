#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <iterator>

#include "worker/kernels/cpu/norm.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/ops.h"
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

float* grad_or_null(const Parameter& parameter) {
  return parameter.trained ? parameter.grad.mutable_data_ptr<float>() : nullptr;
}

template <typename T>
Var add_norm_on_cpu(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
                    const Dropout& dropout) {
  using Kernels = cpu::NormKernels<T>;
  const std::int64_t width = x.value.size(1);
  const at::Tensor y = at::empty_like(x.value);
  const Statistics statistics(layout->tokens());
  const float* weight = module.weight->value.const_data_ptr<float>();
  Kernels::add_norm(x.value.mutable_data_ptr<T>(), residual.value.const_data_ptr<T>(), weight,
                    module.bias->value.const_data_ptr<float>(), static_cast<float>(module.epsilon),
                    y.mutable_data_ptr<T>(), statistics.mean.mutable_data_ptr<float>(),
                    statistics.inverse.mutable_data_ptr<float>(), width, *layout, dropout);
  if (tape == nullptr || !(x.needs_grad() || residual.needs_grad() || module.weight->trained)) return Var(y);

  const Var result = tape->track(y);
  tape->record([slot = result.slot, x_slot = x.slot, residual_slot = residual.slot, sum = x.value, statistics,
                &module, layout, dropout, width] {
    const at::Tensor dy = std::move(slot->grad);
    if (!dy.defined()) return;
    const at::Tensor d_sum = at::empty_like(sum);
    const bool masked = x_slot != nullptr && dropout.active();
    const at::Tensor dx = masked ? at::empty_like(sum) : d_sum;
    Kernels::backward(sum.const_data_ptr<T>(), dy.contiguous().template const_data_ptr<T>(),
                      module.weight->value.const_data_ptr<float>(), statistics.mean.const_data_ptr<float>(),
                      statistics.inverse.const_data_ptr<float>(), d_sum.mutable_data_ptr<T>(),
                      masked ? dx.mutable_data_ptr<T>() : nullptr, grad_or_null(*module.weight),
                      grad_or_null(*module.bias), width, *layout, dropout, Dropout{});
    if (x_slot) x_slot->add(dx);
    if (residual_slot) residual_slot->add(d_sum);
  });
  return result;
}

/// Adds the rows of `gradient` [tokens, width] to the rows `ids` of the table's gradient. Each thread owns columns,
/// so the order of every sum is that of the tokens.
void add_rows(Parameter& table, const at::Tensor& ids, const at::Tensor& gradient, std::int64_t skipped) {
  if (!gradient.is_cpu()) {
    at::Tensor kept = gradient.to(at::kFloat);
    if (skipped >= 0) kept = kept * ids.ne(skipped).unsqueeze(1);
    table.grad.index_add_(0, ids, kept);
  } else {
    const at::Tensor wide = gradient.to(at::kFloat).contiguous();
    const std::int64_t tokens = ids.size(0), width = wide.size(1);
    const std::int64_t* id = ids.const_data_ptr<std::int64_t>();
    const float* from = wide.const_data_ptr<float>();
    float* to = table.grad.mutable_data_ptr<float>();
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (id[t] == skipped) continue;
      float* row = to + id[t] * width;
      for (std::int64_t i = 0; i < width; ++i) row[i] += from[t * width + i];
    }
  }
  if (!table.is_table) return;
  const at::Tensor on_cpu = ids.cpu();
  const std::int64_t* id = on_cpu.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> touched(id, id + on_cpu.size(0));
  std::erase(touched, skipped);
  touched.insert(touched.end(), table.touched_rows.begin(), table.touched_rows.end());
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  table.touched_rows = std::move(touched);
}

template <typename T>
Var norm_dropout_on_cpu(Tape* tape, const Var& x, const NormModule& module, const Layout& layout,
                        const Dropout& dropout) {
  using Kernels = cpu::NormKernels<T>;
  const std::int64_t width = x.value.size(1);
  const at::Tensor y = at::empty_like(x.value);
  const Statistics statistics(layout->tokens());
  Kernels::norm_dropout(x.value.const_data_ptr<T>(), module.weight->value.const_data_ptr<float>(),
                        module.bias->value.const_data_ptr<float>(), static_cast<float>(module.epsilon),
                        y.mutable_data_ptr<T>(), statistics.mean.mutable_data_ptr<float>(),
                        statistics.inverse.mutable_data_ptr<float>(), width, *layout, dropout);
  if (tape == nullptr || !(x.needs_grad() || module.weight->trained)) return Var(y);
  const Var result = tape->track(y);
  tape->record([slot = result.slot, x_slot = x.slot, x = x.value, statistics, &module, layout, dropout, width] {
    const at::Tensor dy = std::move(slot->grad);
    if (!dy.defined()) return;
    const at::Tensor dx = at::empty_like(x);
    Kernels::backward(x.const_data_ptr<T>(), dy.contiguous().template const_data_ptr<T>(),
                      module.weight->value.const_data_ptr<float>(), statistics.mean.const_data_ptr<float>(),
                      statistics.inverse.const_data_ptr<float>(), dx.mutable_data_ptr<T>(), nullptr,
                      grad_or_null(*module.weight), grad_or_null(*module.bias), width, *layout, Dropout{}, dropout);
    if (x_slot) x_slot->add(dx);
  });
  return result;
}

}  // namespace

Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout) {
  if (x.value.is_cpu()) {
    return x.value.scalar_type() == at::kFloat
               ? add_norm_on_cpu<float>(tape, x, residual, module, layout, dropout)
               : add_norm_on_cpu<at::BFloat16>(tape, x, residual, module, layout, dropout);
  }
  const at::Tensor mask = mask_or_none(dropout, layout, x.value.size(1));
  return differentiate(tape, {x, residual}, {module.weight, module.bias}, [&](const std::vector<at::Tensor>& v) {
    return reference::add_norm(v[0], v[1], v[2], v[3], module.epsilon, mask);
  });
}

Var embed_norm(Tape* tape, const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
               const at::Tensor& types, const Layout& layout, const Dropout& dropout, at::ScalarType compute_type) {
  const at::Tensor sum = at::index_select(module.words->value, 0, ids)
                             .add_(at::index_select(module.types->value, 0, types))
                             .add_(at::index_select(module.positions->value, 0, positions))
                             .to(compute_type);
  const bool trained = tape != nullptr && module.words->trained;
  Var input = trained ? tape->track(sum) : Var(sum);
  if (trained) {
    tape->record([slot = input.slot, &module, ids, positions, types] {
      if (!slot->grad.defined()) return;
      add_rows(*module.words, ids, slot->grad, module.padding_id);
      add_rows(*module.types, types, slot->grad, -1);
      add_rows(*module.positions, positions, slot->grad, -1);
    });
  }
  if (sum.is_cpu()) {
    return compute_type == at::kFloat
               ? norm_dropout_on_cpu<float>(tape, input, module.norm, layout, dropout)
               : norm_dropout_on_cpu<at::BFloat16>(tape, input, module.norm, layout, dropout);
  }
  const at::Tensor mask = mask_or_none(dropout, layout, sum.size(1));
  return differentiate(tape, {input}, {module.norm.weight, module.norm.bias},
                       [&](const std::vector<at::Tensor>& v) {
                         return reference::layer_norm(v[0], v[1], v[2], module.norm.epsilon, mask);
                       });
}

Var dropout(Tape* tape, const Var& x, const Layout& layout, const Dropout& dropout) {
  if (!dropout.active()) return x;
  const auto masked = [layout, dropout](const at::Tensor& from) {
    const std::int64_t width = from.size(1);
    if (!from.is_cpu()) return from * dropout_mask(dropout, *layout, width).to(from.options());
    const at::Tensor source = from.contiguous(), to = at::empty_like(source);
    if (from.scalar_type() == at::kFloat) {
      cpu::NormKernels<float>::dropout(source.const_data_ptr<float>(), to.mutable_data_ptr<float>(), width, *layout,
                                       dropout);
    } else {
      cpu::NormKernels<at::BFloat16>::dropout(source.const_data_ptr<at::BFloat16>(),
                                              to.mutable_data_ptr<at::BFloat16>(), width, *layout, dropout);
    }
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
