#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finesweep::worker {

/// A label that does not count in the loss.
inline constexpr std::int64_t ignored_label = -100;

/// Rows that go through a model together, padded to one length. Tensors are contiguous and on the CPU.
struct Batch {
  at::Tensor input_ids;       // [rows, length] int64
  at::Tensor attention_mask;  // [rows, length] int64: 1 for a real token
  at::Tensor token_type_ids;  // [rows, length] int64; undefined where the tokenizer gives none
  /// Classification: [rows] int64, for a regression float32. Language models: int64, ignored_label where nothing
  /// counts; of a decoder alone [rows, length], each beside the token that it is (the model shifts); of an encoder
  /// and decoder [rows, target length]. Undefined where only prompts were asked for.
  at::Tensor labels;
  /// [rows, target length] int64; undefined: the model shifts the labels to the right behind its start token.
  at::Tensor decoder_input_ids;
  /// [rows, length] int64; undefined: as the model numbers its tokens.
  at::Tensor position_ids;
  /// Which rows of the dataset these are.
  std::vector<std::int64_t> row_indices;

  std::int64_t rows() const { return static_cast<std::int64_t>(row_indices.size()); }
};

}  // namespace finesweep::worker
