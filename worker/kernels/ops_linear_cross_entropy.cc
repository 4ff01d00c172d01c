#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/cpu/softmax.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gemm.h"
#include "worker/kernels/linear_pass.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

// Logits of one chunk: enough tokens for a product at full speed, no more memory than this.
constexpr std::int64_t kChunkTokens = 2048, kChunkBytes = std::int64_t{128} << 20, kLeastTokens = 64;

std::int64_t chunk_tokens(std::int64_t vocabulary) {
  const std::int64_t fitting = kChunkBytes / (vocabulary * static_cast<std::int64_t>(sizeof(float)));
  return std::clamp(fitting, kLeastTokens, kChunkTokens);
}

/// Sum of -log softmax(logits)[label]; `logits` become its gradient divided by `denominator`, where that is wanted.
at::Tensor softmax_losses(at::Tensor& logits, const at::Tensor& labels, double denominator, bool gradient) {
  if (has_kernels(logits)) {
    const at::Tensor losses = at::empty({logits.size(0)}, at::kFloat);
    with_storage(logits.scalar_type(), [&]<typename T>() {
      cpu::CrossEntropyKernels<T>::forward(logits.mutable_data_ptr<T>(), labels.const_data_ptr<std::int64_t>(),
                                           logits.size(0), logits.size(1), gradient,
                                           static_cast<float>(1 / denominator), losses.mutable_data_ptr<float>());
    });
    return losses.sum(at::kDouble);
  }
  const at::Tensor index = labels.unsqueeze(1);
  const at::Tensor log_probabilities = at::log_softmax(logits, 1, at::kFloat);
  const at::Tensor loss = -log_probabilities.gather(1, index).sum(at::kDouble);
  if (gradient) {
    at::Tensor d_logits = log_probabilities.exp();
    d_logits.scatter_add_(1, index, at::full_like(index, -1, d_logits.options()));
    logits = d_logits.div_(denominator).to(logits.scalar_type());
  }
  return loss;
}

/// What the way forward computes for the way back, for a loss whose gradient is 1.
struct Gradients {
  at::Tensor hidden;  // of the counted tokens
  at::Tensor weight, bias;
};

struct Wanted {
  bool hidden = false, weight = false, bias = false;
  bool any() const { return hidden || weight || bias; }
};

at::Tensor losses_in_chunks(const at::Tensor& counted, const at::Tensor& labels, const at::Tensor& weight,
                            const at::Tensor& bias, double denominator, const Wanted& wanted,
                            Gradients& gradients) {
  const std::int64_t tokens = counted.size(0), vocabulary = weight.size(0), step = chunk_tokens(vocabulary);
  const auto wide = counted.options().dtype(at::kFloat);
  at::Tensor total = at::zeros({}, wide.dtype(at::kDouble));
  if (wanted.hidden) gradients.hidden = at::empty_like(counted);
  if (wanted.weight) gradients.weight = at::zeros({vocabulary, weight.size(1)}, wide);
  if (wanted.bias) gradients.bias = at::zeros({vocabulary}, wide);
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const std::int64_t count = std::min(step, tokens - begin);
    const at::Tensor hidden = counted.narrow(0, begin, count);
    at::Tensor logits = product_with_weight(hidden, weight, bias);
    total = total + softmax_losses(logits, labels.narrow(0, begin, count), denominator, wanted.any());
    if (wanted.hidden) {
      gradients.hidden.narrow(0, begin, count).copy_(product_with_transposed_weight(logits, weight));
    }
    if (wanted.weight) add_weight_gradient(gradients.weight, logits, hidden);
    if (wanted.bias) add_column_sums(gradients.bias, logits);
  }
  return (total / denominator).to(at::kFloat);
}

}  // namespace

Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const at::Tensor& labels,
                         double denominator, double scale, const Layout& layout, const DropoutRun& run) {
  const ProfileScope scope("linear cross-entropy", OperatorGroup::loss);
  if (!head.branches.empty() || !head.scales.empty()) {
    // Adapters on a head are rare, and their dropout needs every token in its place: all logits at once.
    Var scaled = hidden;
    if (scale != 1) {
      scaled = differentiate(tape, {hidden}, {}, [&](const std::vector<at::Tensor>& v) { return v[0] * scale; });
    }
    return cross_entropy(tape, to_float(tape, linear(tape, scaled, head, layout, run)), labels, denominator);
  }
  Wanted wanted;
  wanted.hidden = tape != nullptr && hidden.needs_grad();
  wanted.weight = tape != nullptr && head.weight->trained;
  wanted.bias = tape != nullptr && head.bias != nullptr && head.bias->trained;
  const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
  at::Tensor counted = at::index_select(hidden.value, 0, index);
  if (scale != 1) counted.mul_(scale);
  const at::Tensor weight = weight_rows(*head.weight, counted.scalar_type(), 0, head.weight->rows());
  const at::Tensor bias = head.bias == nullptr ? at::Tensor() : head.bias->value;
  Gradients gradients;
  const at::Tensor loss =
      losses_in_chunks(counted, at::index_select(labels, 0, index), weight, bias, denominator, wanted, gradients);
  if (!wanted.any()) return Var(loss);

  const Var result = tape->track(loss);
  tape->record([slot = result.slot, hidden_slot = hidden.slot, index, gradients = std::move(gradients), &head,
                scale, shape = hidden.value.sizes().vec()] {
    if (!slot->grad.defined()) return;
    const at::Tensor& d_loss = slot->grad;
    if (gradients.weight.defined()) head.weight->grad.add_(gradients.weight * d_loss);
    if (gradients.bias.defined()) head.bias->grad.add_(gradients.bias * d_loss);
    if (!gradients.hidden.defined()) return;
    const at::Tensor d_counted = (gradients.hidden * (d_loss * scale)).to(gradients.hidden.scalar_type());
    hidden_slot->add(at::zeros(shape, d_counted.options()).index_copy_(0, index, d_counted));
  });
  return result;
}

}  // namespace finesweep::worker
