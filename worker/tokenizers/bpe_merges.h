#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Which pairs of tokens become which, and in what order.
class BpeMerges {
 public:
  void reserve(std::size_t count);
  /// A pair that was added before gets the new rank.
  void add(TokenId left, TokenId right, std::uint32_t rank, TokenId merged);

  /// Merges until no pair is left, in place. Linear in the square of short words, n log n for long ones.
  void apply(std::vector<TokenId>& symbols);

 private:
  static constexpr std::uint32_t no_rank = 0xFFFFFFFF;
  struct Merge {
    std::uint32_t rank = no_rank;
    TokenId merged = 0;
  };
  struct Slot {
    std::uint64_t key = 0;  // the pair, plus one; 0: empty
    Merge merge;
  };
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t position;
    TokenId merged;
  };
  static std::uint64_t key_of(TokenId left, TokenId right) {
    return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right)) + 1;
  }
  std::size_t slot_of(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = ((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (slots_[slot].key != 0 && slots_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
  }
  Merge find(TokenId left, TokenId right) const { return slots_[slot_of(key_of(left, right))].merge; }
  void apply_to_short(std::vector<TokenId>& symbols);
  void apply_to_long(std::vector<TokenId>& symbols);

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  std::vector<Merge> pairs_;                    // of short words: with the symbol to the right
  std::vector<std::uint32_t> next_, previous_;  // of long words
  std::vector<Candidate> heap_;
};

}  // namespace finesweep::worker
