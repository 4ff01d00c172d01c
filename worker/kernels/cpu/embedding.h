#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

namespace finesweep::worker::cpu {

/// A table of [rows, width] and which of its rows each token reads.
template <typename T>
struct TableRows {
  const T* table = nullptr;  // null: the token gets nothing from it
  const std::int64_t* ids = nullptr;
};

/// Embeddings; storage is float or BFloat16, sums are fp32.
template <typename T>
struct EmbeddingKernels {
  /// out [tokens, width] = the sum of the three tables' rows.
  static void gather(const TableRows<T>& words, const TableRows<T>& types, const TableRows<T>& positions, T* out,
                     std::int64_t tokens, std::int64_t width);
  /// grad [rows, width] += the tokens' gradients, but nothing for the row `skipped`. Every sum is in the order of
  /// the tokens.
  static void add_rows(const T* gradient, const std::int64_t* ids, std::int64_t skipped, std::int64_t tokens,
                       std::int64_t width, float* grad);
};

}  // namespace finesweep::worker::cpu
