#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace finesweep::worker {

/// The lengths to which batches are padded, so that few different shapes meet the device. A batch is drawn first;
/// its longest row then picks the bucket. No buckets: every batch is as long as its longest row.
class LengthBuckets {
 public:
  LengthBuckets() = default;
  /// Multiples of 16 up to 128, then four for each doubling, up to `longest` itself: at most a quarter of padding
  /// beyond 64 tokens.
  static LengthBuckets up_to(std::int64_t longest) {
    LengthBuckets buckets;
    for (std::int64_t length = 16, step = 16; length < longest; length += step) {
      buckets.lengths_.push_back(length);
      if (length >= 128 && length % (8 * step) == 0) step *= 2;
    }
    buckets.lengths_.push_back(longest);
    return buckets;
  }

  /// The least bucket that holds `length`; `length` itself where none does.
  std::int64_t fit(std::int64_t length) const {
    const auto bucket = std::lower_bound(lengths_.begin(), lengths_.end(), length);
    return bucket == lengths_.end() ? length : *bucket;
  }
  /// Rising.
  const std::vector<std::int64_t>& lengths() const { return lengths_; }

 private:
  std::vector<std::int64_t> lengths_;
};

}  // namespace finesweep::worker
