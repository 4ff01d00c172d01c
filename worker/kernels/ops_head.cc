#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <vector>

#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/job_rows.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

// The operations at a model's end work on a row or a number per sample: plain tensor operations on any device.

/// These rows of x, none twice.
Var chosen_tokens(Tape* tape, const Var& x, const at::Tensor& index) {
  const ProfileScope scope("pooling", OperatorGroup::other);
  const at::Tensor value = at::index_select(x.value, 0, index);
  if (tape == nullptr || !x.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, x_slot = x.slot, index, shape = x.value.sizes().vec()] {
    if (!slot->grad.defined()) return;
    if (x_slot->grad.defined() && x_slot->grad.use_count() == 1) {
      x_slot->grad.index_add_(0, index, slot->grad);
    } else {
      x_slot->add(at::zeros(shape, slot->grad.options()).index_add_(0, index, slot->grad));
    }
  });
  return result;
}

/// [rows, tokens]: 1 / tokens of the row where the token is the row's.
at::Tensor averaging_matrix(const TokenLayout& layout, const at::Tensor& like) {
  at::Tensor matrix = at::zeros({layout.rows, layout.tokens()}, at::kFloat);
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    matrix.select(0, r).narrow(0, layout.starts[r], layout.tokens_of(r)).fill_(1.0 / layout.tokens_of(r));
  }
  return matrix.to(like.device());
}

}  // namespace

Var first_tokens(Tape* tape, const Var& x, const Layout& layout) {
  if (gpu::has_kernels(x.value)) return chosen_tokens(tape, x, layout->on(x.value.device()).first());
  const std::vector<std::int64_t> first(layout->starts.begin(), layout->starts.end() - 1);
  return chosen_tokens(tape, x, at::tensor(first, at::kLong).to(x.value.device()));
}

Var last_tokens(Tape* tape, const Var& x, const Layout& layout) {
  if (gpu::has_kernels(x.value)) return chosen_tokens(tape, x, layout->on(x.value.device()).last());
  std::vector<std::int64_t> last(layout->starts.begin() + 1, layout->starts.end());
  for (std::int64_t& token : last) --token;
  return chosen_tokens(tape, x, at::tensor(last, at::kLong).to(x.value.device()));
}

Var mean_tokens(Tape* tape, const Var& x, const Layout& layout) {
  const ProfileScope scope("pooling", OperatorGroup::other);
  if (layout->is_pack() && !gpu::has_kernels(x.value)) {
    return for_each_job(tape, x, *layout, [&](std::size_t job, const Var& mine) {
      return mean_tokens(tape, mine, layout->of_job(job));
    });
  }
  if (gpu::has_kernels(x.value)) return gpu::mean_tokens(tape, x, layout);
  const at::Tensor matrix = averaging_matrix(*layout, x.value);
  const at::Tensor value = at::mm(matrix, x.value.to(at::kFloat)).to(x.value.scalar_type());
  if (tape == nullptr || !x.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, x_slot = x.slot, matrix] {
    if (!slot->grad.defined()) return;
    x_slot->add(at::mm(matrix.t(), slot->grad.to(at::kFloat)).to(slot->grad.scalar_type()));
  });
  return result;
}

Var to_type(Tape* tape, const Var& x, at::ScalarType type) {
  if (x.value.scalar_type() == type) return x;
  const at::Tensor value = x.value.to(type);
  if (tape == nullptr || !x.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, x_slot = x.slot, type = x.value.scalar_type()] {
    if (slot->grad.defined()) x_slot->add(slot->grad.to(type));
  });
  return result;
}

Var to_float(Tape* tape, const Var& x) {
  return to_type(tape, x, at::kFloat);
}

Var head_linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const Dropout& before,
                const DropoutRun& run) {
  if (tape == nullptr && !before.active()) {
    const at::Tensor y = gpu::few_outputs(x.value, module);
    if (y.defined()) return Var(y);
  }
  return linear(tape, dropout(tape, to_float(tape, x), layout, before), module, layout, run);
}

Var scale(Tape* tape, const Var& x, double factor) {
  if (factor == 1) return x;
  const at::Tensor value = x.value * factor;
  if (tape == nullptr || !x.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, x_slot = x.slot, factor] {
    if (slot->grad.defined()) x_slot->add(slot->grad * factor);
  });
  return result;
}

Var cross_entropy(Tape* tape, const Var& logits, const at::Tensor& labels, const Denominator& denominator) {
  const ProfileScope scope("cross-entropy", OperatorGroup::loss);
  const at::Tensor log_probabilities = at::log_softmax(logits.value, 1);
  const at::Tensor counts = labels.ne(-100);
  const at::Tensor index = at::where(counts, labels, at::zeros_like(labels)).unsqueeze(1);
  const at::Tensor chosen = log_probabilities.gather(1, index).squeeze(1);
  const at::Tensor value = denominator.divide(-at::where(counts, chosen, at::zeros_like(chosen)).sum());
  if (tape == nullptr || !logits.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, logits_slot = logits.slot, log_probabilities, counts, index, denominator] {
    if (!slot->grad.defined()) return;
    at::Tensor gradient = log_probabilities.exp();
    gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
    const at::Tensor weight = counts.to(at::kFloat).unsqueeze(1) * denominator.divide(slot->grad);
    // A product with 0 would keep a NaN of a row that does not count.
    logits_slot->add(at::where(counts.unsqueeze(1), gradient * weight, at::zeros_like(gradient)));
  });
  return result;
}

Var squared_error(Tape* tape, const Var& values, const at::Tensor& labels, const Denominator& denominator) {
  const ProfileScope scope("squared error", OperatorGroup::loss);
  const at::Tensor difference = values.value - labels.to(at::kFloat).view({-1, 1});
  const at::Tensor value = denominator.divide((difference * difference).sum());
  if (tape == nullptr || !values.needs_grad()) return Var(value);
  const Var result = tape->track(value);
  tape->record([slot = result.slot, values_slot = values.slot, difference, denominator] {
    if (slot->grad.defined()) values_slot->add(difference * denominator.divide(slot->grad * 2.0));
  });
  return result;
}

Var label_loss(Tape* tape, const Var& logits, const at::Tensor& labels, const Denominator& denominator,
               const Layout& layout) {
  const auto loss = [&](const Var& values, const at::Tensor& of, const Denominator& by) {
    return values.value.size(1) == 1 ? squared_error(tape, values, of, by) : cross_entropy(tape, values, of, by);
  };
  if (layout == nullptr || !layout->is_pack()) return loss(logits, labels, denominator);
  return losses_of_jobs(tape, logits, layout->job_rows, [&](std::size_t job, const Var& values) {
    const at::Tensor mine = labels.narrow(0, layout->job_rows[job], layout->rows_of_job(job));
    return loss(values, mine, denominator.of_job(job));
  });
}

void backward(Tape& tape, const Var& loss) {
  if (loss.needs_grad()) loss.slot->add(at::ones(loss.value.sizes(), loss.value.options()));
  tape.backward();
}

}  // namespace finesweep::worker
