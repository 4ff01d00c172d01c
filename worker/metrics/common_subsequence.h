#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace finesweep::worker {

/// Longest common subsequences with one text, 64 cells of the table at a time (Hyyrö 2004, "Bit-parallel LCS-length
/// computation revisited"): O(rows · columns / 64).
class CommonSubsequence {
 public:
  /// `columns` are the tokens of the text that stays, numbered in any way.
  explicit CommonSubsequence(std::span<const std::int32_t> columns);

  /// Takes memory for one row of the table.
  std::int64_t length(std::span<const std::int32_t> rows);

  /// Sets `chosen[i]` where rows[i] belongs to the common subsequence that is found walking back from the end:
  /// equal tokens are taken; else it goes to the column before only where that keeps more than the row before
  /// would. Takes one bit for each cell of the table.
  void mark(std::span<const std::int32_t> rows, std::vector<char>& chosen);

 private:
  /// A bit is 0 where the length grows from the column before to this one.
  using Row = std::vector<std::uint64_t>;
  void advance(std::int32_t token, const std::uint64_t* from, std::uint64_t* to);

  std::span<const std::int32_t> columns_;
  std::size_t words_;
  std::vector<std::pair<std::int32_t, std::int64_t>> places_;  // (token, column), sorted
  Row matches_;                                                // scratch, all 0 between calls
};

}  // namespace finesweep::worker
