#include "worker/metrics/common_subsequence.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace finesweep::worker {
namespace {

constexpr std::size_t word_bits = 64;

/// The growth at columns 1 … count of a row, added up.
std::int64_t length_up_to(const std::uint64_t* row, std::size_t count) {
  std::int64_t length = 0;
  for (std::size_t word = 0; word < count / word_bits; ++word) length += std::popcount(~row[word]);
  if (const std::size_t rest = count % word_bits; rest > 0) {
    length += std::popcount(~row[count / word_bits] & ((std::uint64_t{1} << rest) - 1));
  }
  return length;
}

/// Whether the length grows at column `column` (from 0).
bool grows(const std::uint64_t* row, std::size_t column) {
  return (row[column / word_bits] >> (column % word_bits) & 1) == 0;
}

}  // namespace

CommonSubsequence::CommonSubsequence(std::span<const std::int32_t> columns)
    : columns_(columns), words_((columns.size() + word_bits - 1) / word_bits), matches_(words_, 0) {
  places_.reserve(columns.size());
  for (std::size_t i = 0; i < columns.size(); ++i) places_.emplace_back(columns[i], static_cast<std::int64_t>(i));
  std::sort(places_.begin(), places_.end());
}

void CommonSubsequence::advance(std::int32_t token, const std::uint64_t* from, std::uint64_t* to) {
  const auto first =
      std::lower_bound(places_.begin(), places_.end(), std::pair(token, std::numeric_limits<std::int64_t>::min()));
  auto last = first;
  for (; last != places_.end() && last->first == token; ++last) {
    const auto column = static_cast<std::size_t>(last->second);
    matches_[column / word_bits] |= std::uint64_t{1} << (column % word_bits);
  }
  if (first == last) {
    if (from != to) std::copy_n(from, words_, to);
    return;
  }
  std::uint64_t carry = 0;
  for (std::size_t word = 0; word < words_; ++word) {
    const std::uint64_t old = from[word], kept = old & matches_[word];
    const std::uint64_t partial = old + kept;
    const std::uint64_t sum = partial + carry;
    carry = static_cast<std::uint64_t>(partial < old) | static_cast<std::uint64_t>(sum < partial);
    to[word] = sum | (old & ~matches_[word]);
  }
  for (auto place = first; place != last; ++place)
    matches_[static_cast<std::size_t>(place->second) / word_bits] = 0;
}

std::int64_t CommonSubsequence::length(std::span<const std::int32_t> rows) {
  Row row(words_, ~std::uint64_t{0});
  for (const std::int32_t token : rows) advance(token, row.data(), row.data());
  return length_up_to(row.data(), columns_.size());
}

void CommonSubsequence::mark(std::span<const std::int32_t> rows, std::vector<char>& chosen) {
  if (columns_.empty()) return;
  Row table((rows.size() + 1) * words_, ~std::uint64_t{0});
  const auto row = [&](std::size_t i) { return table.data() + i * words_; };
  for (std::size_t i = 0; i < rows.size(); ++i) advance(rows[i], row(i), row(i + 1));

  std::size_t i = rows.size(), j = columns_.size();
  std::int64_t here = length_up_to(row(i), j);
  while (i > 0 && here > 0) {
    // The row before, up to this column, changes with the column by its own growth.
    std::int64_t above = length_up_to(row(i - 1), j);
    while (rows[i - 1] != columns_[j - 1] && here - grows(row(i), j - 1) > above) {
      here -= grows(row(i), j - 1);
      above -= grows(row(i - 1), j - 1);
      --j;
    }
    if (rows[i - 1] == columns_[j - 1]) {
      chosen[i - 1] = 1;
      --j;
      here = length_up_to(row(i - 1), j);
    } else {
      here = above;
    }
    --i;
  }
}

}  // namespace finesweep::worker
