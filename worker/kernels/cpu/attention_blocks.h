#pragma once

// What the two attention kernels share. Vector code: included by kernels/cpu/attention*.cc alone.

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "worker/kernels/cpu/attention.h"
#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {

/// Floats of a thread's own, not cleared: most of them are written before they are read.
class Buffer {
 public:
  float* grow(std::int64_t count) {
    if (count > count_) {
      values_ = std::make_unique_for_overwrite<float[]>(count);
      count_ = count;
    }
    return values_.get();
  }
  float* data() const { return values_.get(); }

 private:
  std::unique_ptr<float[]> values_;
  std::int64_t count_ = 0;
};

struct Range {
  std::int64_t begin = 0, end = 0;
};

/// The keys of a row that query `i` of its `queries` sees.
template <typename T>
Range visible_keys(const AttentionProblem<T>& problem, std::int64_t i, std::int64_t queries, std::int64_t keys) {
  if (!problem.causal) return {0, keys};
  const std::int64_t end = i + keys - queries + 1;
  return {problem.window > 0 ? std::max<std::int64_t>(0, end - problem.window) : 0, end};
}

/// How the probabilities of one query are dropped: its 16-bit numbers from some key on. No dropout: null.
struct KeyMask {
  const std::uint16_t* bits = nullptr;
  std::uint32_t threshold = 0;
  float scale = 1;
};

template <typename F>
FINESWEEP_INLINE F keep_at(const KeyMask& mask, std::int64_t j) {
  return mask.bits == nullptr ? splat<F>(1.0f) : keep<F>(mask.bits + j, mask.threshold, mask.scale);
}

/// The numbers that drop keys of a block of queries. They are made for ranges of 64 keys.
class KeyMasks {
 public:
  KeyMasks(const Dropout& dropout, const TokenLayout& queries, std::int64_t row) : dropout_(dropout) {
    if (dropout.active()) stream_ = dropout.stream(queries, row);
  }

  /// For queries first … first + count of a head, and keys of `range`.
  void fill(std::int64_t head, std::int64_t first, std::int64_t count, const Range& range,
            std::vector<std::uint16_t>& bits) {
    if (!dropout_.active()) return;
    begin_ = range.begin / 64 * 64;
    stride_ = (range.end - begin_ + 63) / 64 * 64;
    if (static_cast<std::int64_t>(bits.size()) < count * stride_) bits.resize(count * stride_);
    bits_ = bits.data();
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t block = (static_cast<std::uint64_t>(head) << 48) +
                                  (static_cast<std::uint64_t>(first + i) << 24) +
                                  static_cast<std::uint64_t>(begin_ / 8);
      dropout_bits(stream_, block, stride_ / 8, bits.data() + i * stride_);
    }
  }
  /// Of query first + i, from key `from` on, which is in the range.
  KeyMask of(std::int64_t i, std::int64_t from) const {
    if (!dropout_.active()) return {};
    return {bits_ + i * stride_ + from - begin_, dropout_.threshold, dropout_.scale()};
  }

 private:
  const Dropout& dropout_;
  RandomStream stream_{0, purpose::dropout};
  std::int64_t begin_ = 0, stride_ = 0;
  const std::uint16_t* bits_ = nullptr;
};

/// -∞ outside of the range, for the vector whose first column is j.
template <typename F>
FINESWEEP_INLINE F only_visible(F scores, const Range& seen, std::int64_t j, F otherwise) {
  const Ints<F> lane = lane_numbers<F>();
  if (seen.end - j < kLanes<F>) {
    scores = if_less<F>(lane, static_cast<std::int32_t>(seen.end - j), scores, otherwise);
  }
  if (seen.begin > j) scores = if_less<F>(lane, static_cast<std::int32_t>(seen.begin - j), otherwise, scores);
  return scores;
}

template <typename F>
FINESWEEP_INLINE void clear(float* values, std::int64_t begin, std::int64_t end) {
  for (std::int64_t j = begin; j < end; j += kLanes<F>) store<F>(values + j, F{});
}

/// A vector's columns from which one that is seen begins, and behind which the last one ends.
template <typename F>
FINESWEEP_INLINE Range whole_vectors(const Range& seen) {
  return {seen.begin / kLanes<F> * kLanes<F>, (seen.end + kLanes<F> - 1) / kLanes<F> * kLanes<F>};
}

/// Products of one query with `columns` keys to exponentials under the mask; gives the sum (without the mask) and
/// the maximum. Columns that are not seen become 0. `bias` may be null.
template <typename F>
FINESWEEP_INLINE void softmax_row(float* scores, const Range& seen, std::int64_t columns, float scale,
                                  const float* bias, const KeyMask& mask, float& top, float& total) {
  const Range vectors = whole_vectors<F>(seen);
  F best = splat<F>(-INFINITY);
  for (std::int64_t j = vectors.begin; j < vectors.end; j += kLanes<F>) {
    F s = load<F>(scores + j) * scale;
    if (bias != nullptr) s += load<F>(bias + j);
    s = only_visible<F>(s, seen, j, splat<F>(-INFINITY));
    store<F>(scores + j, s);
    best = max(best, s);
  }
  top = largest(best);
  F sums{};
  for (std::int64_t j = vectors.begin; j < vectors.end; j += kLanes<F>) {
    const F e = exponential<F>(load<F>(scores + j) - top);
    sums += e;
    store<F>(scores + j, e * keep_at<F>(mask, j));
  }
  total = sum(sums);
  clear<F>(scores, 0, vectors.begin);
  clear<F>(scores, vectors.end, columns);
}

/// Products of one query and the gradient of its masked probabilities to masked probabilities (in `scores`) and the
/// gradient of the products (in `gradients`). Adds to d_bias, which may be null.
template <typename F>
FINESWEEP_INLINE void softmax_row_backward(float* scores, float* gradients, const Range& seen, std::int64_t columns,
                                           float scale, const float* bias, float* d_bias, float log_sum, float dot,
                                           const KeyMask& mask) {
  const Range vectors = whole_vectors<F>(seen);
  for (std::int64_t j = vectors.begin; j < vectors.end; j += kLanes<F>) {
    F s = load<F>(scores + j) * scale;
    if (bias != nullptr) s += load<F>(bias + j);
    const F p = only_visible<F>(exponential<F>(s - log_sum), seen, j, F{});
    const F kept = keep_at<F>(mask, j);
    const F d = only_visible<F>(p * (load<F>(gradients + j) * kept - dot), seen, j, F{});
    if (d_bias != nullptr) store<F>(d_bias + j, load<F>(d_bias + j) + d);
    store<F>(gradients + j, d * scale);
    store<F>(scores + j, p * kept);
  }
  for (float* values : {scores, gradients}) {
    clear<F>(values, 0, vectors.begin);
    clear<F>(values, vectors.end, columns);
  }
}

}  // namespace finesweep::worker::cpu
