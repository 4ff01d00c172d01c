#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "worker/kernels/dropout.h"

namespace finesweep::worker::cpu {

/// A matrix of heads side by side: token t, head h, element i stands at data[t × stride + h × size + i].
template <typename T>
struct Heads {
  T* data = nullptr;
  std::int64_t stride = 0;
};

struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t size = 0;  // of one head
  float scale = 1;        // of the scores
};

/// Softmax attention within each row. One task computes one head of one row, by blocks of queries against all keys,
/// so memory is one block's scores a thread; on the way back the probabilities are computed again from log_sum
/// [queries, heads], the logarithm of each query's sum of exponentials.
template <typename T>
struct AttentionKernels {
  static void forward(Heads<const T> query, Heads<const T> key, Heads<const T> value, Heads<T> out, float* log_sum,
                      const AttentionShape& shape, const TokenLayout& queries, const RowSpans& keys,
                      const Dropout& dropout);
  /// `out` and `log_sum` are what forward gave, d_out the gradient of out; writes the gradients of the three
  /// inputs.
  static void backward(Heads<const T> query, Heads<const T> key, Heads<const T> value, Heads<const T> out,
                       Heads<const T> d_out, const float* log_sum, Heads<T> d_query, Heads<T> d_key,
                       Heads<T> d_value, const AttentionShape& shape, const TokenLayout& queries,
                       const RowSpans& keys, const Dropout& dropout);
};

}  // namespace finesweep::worker::cpu
