#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finesweep::worker {

/// Which tokens of a padded batch a pass works on, and where they lie. Hidden states are [tokens, width]: only the
/// tokens under the mask exist, row after row, so no product is spent on padding and no result depends on how far a
/// batch was padded.
struct TokenLayout {
  std::int64_t rows = 0;
  std::int64_t longest = 0;            // tokens of the longest row
  std::vector<std::int64_t> starts;    // [rows + 1]: row r holds tokens starts[r] … starts[r + 1]
  std::vector<std::int32_t> row;       // [tokens]: the row within the batch
  std::vector<std::int32_t> position;  // [tokens]: the position within the padded row
  std::int64_t first_row = 0;          // of this batch within the accumulated batch: numbers the dropout streams

  std::int64_t tokens() const { return starts.empty() ? 0 : starts.back(); }

  /// From a mask [rows, length] of integers on any device; any pattern of ones is allowed.
  static TokenLayout of_mask(const at::Tensor& attention_mask);
  /// The first token of each row, as a layout of its own.
  TokenLayout first_tokens() const;
};

}  // namespace finesweep::worker
