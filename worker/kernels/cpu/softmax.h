#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

/// Cross-entropy over a large vocabulary; storage is float or BFloat16, computed in fp32.
template <typename T>
struct CrossEntropyKernels {
  /// losses[t] = -log softmax(logits[t])[label[t]]. Where `gradients` is true, the logits [tokens, vocabulary]
  /// become their gradient times `factor`: (softmax - one-hot) · factor.
  static void forward(T* logits, const std::int64_t* labels, std::int64_t tokens, std::int64_t vocabulary,
                      bool gradients, float factor, float* losses);
};

}  // namespace finesweep::worker::cpu
