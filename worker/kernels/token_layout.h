#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace finesweep::worker {

struct TokenLayout;
struct DeviceLayout;
/// Shared by the steps of a tape, which run after the pass has returned.
using Layout = std::shared_ptr<const TokenLayout>;

/// Where the tokens of each row stand in a matrix of tokens: row r is begin[r] … begin[r] + count[r]. Rows may lie
/// apart, as in a cache, and several may be the same, as the beams of one source.
struct RowSpans {
  std::vector<std::int64_t> begin, count;
  /// Where they are the rows of a layout: that.
  Layout of;

  std::int64_t rows() const { return static_cast<std::int64_t>(begin.size()); }
  std::int64_t longest() const;
};

/// Where the dropout of a row of a pack draws from: what its job would draw from alone.
struct RowStream {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t row = 0;  // within the job's accumulated batch
};

/// Which tokens of a padded batch a pass works on, and where they lie. Hidden states are [tokens, width]: only the
/// tokens under the mask exist, row after row, so no product is spent on padding and no result depends on how far a
/// batch was padded.
///
/// On a GPU the matrices may have more rows than there are tokens: what stands behind the last token belongs to no
/// row, has no gradient, and is there so that batches of almost one size have one shape.
struct TokenLayout : std::enable_shared_from_this<TokenLayout> {
  std::int64_t rows = 0;
  std::int64_t longest = 0;          // tokens of the longest row
  std::vector<std::int64_t> starts;  // [rows + 1]: row r holds tokens starts[r] … starts[r + 1]
  std::vector<std::int32_t> row;     // [tokens]: the row within the batch
  at::Tensor padded_index;           // [tokens] int64, CPU: row × length + position in the padded batch
  std::int64_t first_row = 0;        // of this batch within the accumulated batch: numbers the dropout streams

  /// Of a pass over several jobs (a pack): job j has the rows job_rows[j] … job_rows[j + 1]. Empty: all rows are
  /// one job's.
  std::vector<std::int64_t> job_rows;
  /// Of each row; empty: all draw from the pass's seed and step, and first_row numbers them.
  std::vector<RowStream> streams;

  bool is_pack() const { return !job_rows.empty(); }
  std::size_t jobs() const { return job_rows.size() - 1; }
  std::int64_t rows_of_job(std::size_t j) const { return job_rows[j + 1] - job_rows[j]; }
  /// [jobs + 1]: job j has the tokens job_tokens()[j] … job_tokens()[j + 1].
  std::vector<std::int64_t> job_tokens() const;

  std::int64_t tokens() const { return starts.empty() ? 0 : starts.back(); }
  std::int64_t tokens_of(std::int64_t r) const { return starts[r + 1] - starts[r]; }

  RowSpans spans() const;
  /// The number of each token within its row, from 0, plus `before[row]` (empty: 0): [tokens] int64, CPU.
  at::Tensor positions(const std::vector<std::int64_t>& before = {}) const;

  /// From a mask [rows, length] of integers on any device. Any pattern of ones is allowed; a row has at least one.
  static Layout of_mask(const at::Tensor& attention_mask, std::int64_t first_row);
  /// The first token of each row, as a layout of its own.
  Layout first_tokens() const;
  /// Of a pack: the rows of one job, as a layout of its own; null where it has none. One thread at a time.
  Layout of_job(std::size_t j) const;

  /// What of_mask() gave for one job, and the seed and step of its dropout. Null: the job has no rows.
  struct JobRows {
    Layout layout;
    std::uint64_t seed = 0;
    std::int64_t step = 0;
  };
  static Layout pack(const std::vector<JobRows>& jobs);

  /// The same on a GPU; made at the first call. One thread at a time.
  const DeviceLayout& on(c10::Device device) const;
  /// What on() gives from here on, of a layout that was made for a captured step.
  void use(std::shared_ptr<const DeviceLayout> on_device) const { on_device_ = std::move(on_device); }

 private:
  Layout whole_;  // of first_tokens(): whose they are
  mutable std::vector<Layout> of_jobs_;
  mutable std::shared_ptr<const DeviceLayout> on_device_;
};

/// A layout as kernels of a GPU read it: tensors on that device.
struct DeviceLayout {
  at::Tensor starts;      // [rows + 2] int32: TokenLayout::starts, and then the rows of the matrices
  at::Tensor token_rows;  // [rows of the matrices] int32: of each token first_row + its row
  at::Tensor places;      // as long: its number within its row
  at::Tensor rows;        // [rows] int32: first_row + 0, 1, …
  /// Of a pack, else undefined. Of each token, and of each row, its job; -1 for what belongs to no row. int32.
  at::Tensor token_jobs, row_jobs;
  /// Of a pack, of each row: a FinesweepRowStream. int64 [rows, 3].
  at::Tensor streams;
  /// [rows] int64: the first and the last token of each row.
  at::Tensor first() const;
  at::Tensor last() const;
  std::int64_t row_count = 0;
  /// No row has more tokens, nor has what stands behind them.
  std::int64_t longest = 0;
  /// Every row has `longest` tokens, and nothing stands behind them.
  bool even = false;
};

/// What a DeviceLayout holds, as one run of int32 on the CPU; `size` rows of the matrices.
std::vector<std::int32_t> device_layout_numbers(const TokenLayout& layout, std::int64_t size);
/// The streams of a pack's rows; else empty.
std::vector<std::int64_t> device_streams(const TokenLayout& layout);
/// The views of such numbers on a device: int32, contiguous. `streams`: undefined but of a pack.
DeviceLayout device_layout_of(const at::Tensor& numbers, const at::Tensor& streams, std::int64_t rows,
                              std::int64_t size);

}  // namespace finesweep::worker
