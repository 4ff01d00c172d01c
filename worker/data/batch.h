#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finesweep::worker {

/// Rows that go through a model together, padded to the longest of them. Tensors are contiguous and on the CPU.
struct Batch {
  at::Tensor input_ids;       // [rows, length] int64
  at::Tensor attention_mask;  // [rows, length] int64: 1 for a real token
  at::Tensor token_type_ids;  // [rows, length] int64; undefined where the tokenizer gives none
  at::Tensor labels;          // [rows] int64; float32 for a regression
  /// Which rows of the dataset these are.
  std::vector<std::int64_t> row_indices;

  std::int64_t rows() const { return static_cast<std::int64_t>(row_indices.size()); }
};

}  // namespace finesweep::worker
