#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace finesweep::worker {

struct TokenLayout;
/// Shared by the steps of a tape, which run after the pass has returned.
using Layout = std::shared_ptr<const TokenLayout>;

/// Where the tokens of each row stand in a matrix of tokens: row r is begin[r] … begin[r] + count[r]. Rows may lie
/// apart, as in a cache, and several may be the same, as the beams of one source.
struct RowSpans {
  std::vector<std::int64_t> begin, count;

  std::int64_t rows() const { return static_cast<std::int64_t>(begin.size()); }
  std::int64_t longest() const;
};

/// Which tokens of a padded batch a pass works on, and where they lie. Hidden states are [tokens, width]: only the
/// tokens under the mask exist, row after row, so no product is spent on padding and no result depends on how far a
/// batch was padded.
struct TokenLayout {
  std::int64_t rows = 0;
  std::int64_t longest = 0;          // tokens of the longest row
  std::vector<std::int64_t> starts;  // [rows + 1]: row r holds tokens starts[r] … starts[r + 1]
  std::vector<std::int32_t> row;     // [tokens]: the row within the batch
  at::Tensor padded_index;           // [tokens] int64, CPU: row × length + position in the padded batch
  std::int64_t first_row = 0;        // of this batch within the accumulated batch: numbers the dropout streams

  std::int64_t tokens() const { return starts.empty() ? 0 : starts.back(); }
  std::int64_t tokens_of(std::int64_t r) const { return starts[r + 1] - starts[r]; }

  RowSpans spans() const;
  /// The number of each token within its row, from 0, plus `before[row]` (empty: 0): [tokens] int64, CPU.
  at::Tensor positions(const std::vector<std::int64_t>& before = {}) const;

  /// From a mask [rows, length] of integers on any device. Any pattern of ones is allowed; a row has at least one.
  static Layout of_mask(const at::Tensor& attention_mask, std::int64_t first_row);
  /// The first token of each row, as a layout of its own.
  Layout first_tokens() const;
};

}  // namespace finesweep::worker
