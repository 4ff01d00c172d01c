#include "worker/kernels/linear_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "worker/kernels/gemm.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/linear_pass.h"

namespace finesweep::worker {
namespace {

// Enough tokens for a product at full speed.
constexpr std::int64_t kChunkTokens = 2048, kLeastTokens = 64;

std::int64_t chunk_tokens(std::int64_t vocabulary, std::int64_t chunk_bytes) {
  const std::int64_t fitting = chunk_bytes / (vocabulary * static_cast<std::int64_t>(sizeof(float)));
  return std::clamp(fitting, kLeastTokens, kChunkTokens);
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

at::Tensor losses_in_chunks(const at::Tensor& counted, const at::Tensor& weight, const at::Tensor& bias,
                            const LinearLoss& what, const ChunkLoss& loss, const Wanted& wanted,
                            Gradients& gradients) {
  const std::int64_t tokens = counted.size(0), vocabulary = weight.size(0);
  const std::int64_t step = chunk_tokens(vocabulary, what.chunk_bytes);
  const auto wide = counted.options().dtype(at::kFloat);
  at::Tensor total = at::zeros({}, wide.dtype(at::kDouble));
  if (wanted.hidden) gradients.hidden = at::empty_like(counted);
  if (wanted.weight) gradients.weight = at::zeros({vocabulary, weight.size(1)}, wide);
  if (wanted.bias) gradients.bias = at::zeros({vocabulary}, wide);
  for (std::int64_t begin = 0; begin < tokens; begin += step) {
    const std::int64_t count = std::min(step, tokens - begin);
    const at::Tensor hidden = counted.narrow(0, begin, count);
    at::Tensor logits = product_with_weight(hidden, weight, bias);
    total = total + loss(logits, begin, count, wanted.any());
    if (wanted.hidden) {
      gradients.hidden.narrow(0, begin, count).copy_(product_with_transposed_weight(logits, weight));
    }
    if (wanted.weight) add_weight_gradient(gradients.weight, logits, hidden);
    if (wanted.bias) add_column_sums(gradients.bias, logits);
  }
  return (total / what.denominator).to(at::kFloat);
}

}  // namespace

Var linear_loss(Tape* tape, const Var& hidden, const LinearModule& head, const LinearLoss& what,
                const ChunkLoss& loss) {
  Wanted wanted;
  wanted.hidden = tape != nullptr && hidden.needs_grad();
  wanted.weight = tape != nullptr && head.weight->trained;
  wanted.bias = tape != nullptr && head.bias != nullptr && head.bias->trained;
  at::Tensor counted = at::index_select(hidden.value, 0, what.index);
  if (what.scale != 1) counted.mul_(what.scale);
  const at::Tensor weight = weight_rows(*head.weight, counted.scalar_type(), 0, head.weight->rows());
  const at::Tensor bias = head.bias == nullptr ? at::Tensor() : head.bias->value;
  Gradients gradients;
  const at::Tensor value = losses_in_chunks(counted, weight, bias, what, loss, wanted, gradients);
  if (!wanted.any()) return Var(value);

  const Var result = tape->track(value);
  tape->record([slot = result.slot, hidden_slot = hidden.slot, index = what.index, gradients = std::move(gradients),
                &head, scale = what.scale, shape = hidden.value.sizes().vec()] {
    if (!slot->grad.defined()) return;
    const at::Tensor& d_loss = slot->grad;
    if (gradients.weight.defined()) head.weight->grad.add_(gradients.weight * d_loss);
    if (gradients.bias.defined()) head.bias->grad.add_(gradients.bias * d_loss);
    if (!gradients.hidden.defined()) return;
    const at::Tensor d_counted = (gradients.hidden * (d_loss * scale)).to(gradients.hidden.scalar_type());
    hidden_slot->add(at::zeros(shape, d_counted.options()).index_copy_(0, index, d_counted));
  });
  adds_to(tape, {head.weight, head.bias});
  return result;
}

}  // namespace finesweep::worker
