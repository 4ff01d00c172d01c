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
  /// Classification: [rows] int64, a regression: [rows] float32. Language models: [rows, length] int64, -100 where
  /// a token does not count; aligned with input_ids (the model shifts), for an encoder-decoder with the decoder.
  at::Tensor labels;
  /// [rows, length] int64. Undefined: an encoder-decoder shifts the labels right.
  at::Tensor decoder_input_ids;
  /// [rows, length] int64. Undefined: as the model numbers them.
  at::Tensor position_ids;
  /// Which rows of the dataset these are.
  std::vector<std::int64_t> row_indices;

  std::int64_t rows() const { return static_cast<std::int64_t>(row_indices.size()); }
};

}  // namespace finesweep::worker
