#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// A loss over a large vocabulary, of some tokens: the sum of the losses of `logits` [count, vocabulary], of the
/// tokens begin … begin + count of those that count; a scalar in fp64. With `gradient` the logits become the
/// gradient of the whole loss, in their type.
using ChunkLoss =
    std::function<at::Tensor(at::Tensor& logits, std::int64_t begin, std::int64_t count, bool gradient)>;

struct LinearLoss {
  /// Numbers of the tokens that count, int64; no work is spent on others.
  at::Tensor index;
  double denominator = 1;
  /// Of the hidden states, before the head.
  double scale = 1;
  /// Most memory of the logits of one chunk.
  std::int64_t chunk_bytes = std::int64_t{128} << 20;
};

/// The sum of the losses of scale · hidden Wᵀ + b, divided by the denominator, without all logits at once:
/// gradients are computed on the way forward. The head has no adapters.
Var linear_loss(Tape* tape, const Var& hidden, const LinearModule& head, const LinearLoss& what,
                const ChunkLoss& loss);

}  // namespace finesweep::worker
