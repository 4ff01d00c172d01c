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
  T* at(std::int64_t token, std::int64_t head, std::int64_t size) const {
    return data + token * stride + head * size;
  }
};

/// What the scores get by the distance key - query position: head h, distance d at
/// values[h × stride + zero + d]. A vector beyond the outermost distances may be read.
struct DistanceBias {
  const float* values = nullptr;  // null: none
  std::int64_t stride = 0, zero = 0;
};

/// Attention as kernels/ops.h has it. Storage is float or BFloat16, sums are fp32.
template <typename T>
struct AttentionProblem {
  Heads<const T> query, key, value;
  std::int64_t heads = 0, key_heads = 0, size = 0;
  float scale = 1;
  bool causal = false;
  std::int64_t window = 0;
  DistanceBias bias;
  const TokenLayout* queries = nullptr;
  const RowSpans* keys = nullptr;
  Dropout dropout;

  std::int64_t group() const { return heads / key_heads; }
};

/// One task computes the query heads of one key head of one row, by blocks of queries against the keys that some of
/// them sees, so memory is one block's scores a thread; on the way back the probabilities are computed again from
/// log_sum [queries, heads], the logarithm of each query's sum of exponentials. Nothing depends on the number of
/// threads.
template <typename T>
struct AttentionKernels {
  static void forward(const AttentionProblem<T>& problem, Heads<T> out, float* log_sum);
  /// `out` and `log_sum` are what forward gave, d_out the gradient of out. Writes the gradients of the three inputs
  /// for the tokens and columns that rows have; adds to d_bias [heads, bias.stride], which may be null.
  static void backward(const AttentionProblem<T>& problem, Heads<const T> out, Heads<const T> d_out,
                       const float* log_sum, Heads<T> d_query, Heads<T> d_key, Heads<T> d_value, float* d_bias);
};

/// The same where every row has one query, as a step of generation or [CLS]: straight over the keys where they lie,
/// several heads of a token together, as fast as memory gives them.
template <typename T>
struct SingleQueryKernels {
  static void forward(const AttentionProblem<T>& problem, Heads<T> out, float* log_sum);
  /// row_bias: null, or [rows, heads, bias.stride]: what each row adds to the gradient of the bias.
  static void backward(const AttentionProblem<T>& problem, Heads<const T> out, Heads<const T> d_out,
                       const float* log_sum, Heads<T> d_query, Heads<T> d_key, Heads<T> d_value, float* row_bias);
};

}  // namespace finesweep::worker::cpu
