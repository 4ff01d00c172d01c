#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Texts as a trie over bytes; children stand in one open-addressing table keyed by (node, byte).
class ByteTrie {
 public:
  static constexpr std::uint32_t root = 1;

  /// Spares growing: `bytes` is the length of all texts together.
  void reserve(std::size_t bytes);
  /// A text that was inserted before gets the new id.
  void insert(std::string_view text, TokenId id);

  /// The node reached from `node` over `byte`; 0: none.
  std::uint32_t child(std::uint32_t node, unsigned char byte) const {
    return slots_[slot_of(std::uint64_t{node} << 8 | byte)].node;
  }
  /// Of the text that ends at the node; -1: none does.
  TokenId id_at(std::uint32_t node) const { return ids_[node]; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::uint32_t node = 0;
  };
  std::size_t slot_of(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = ((key * 0x9E3779B97F4A7C15u) >> 32) & mask;
    while (slots_[slot].key != 0 && slots_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
  }
  void resize(std::size_t slots);

  std::vector<Slot> slots_ = std::vector<Slot>(64);
  std::vector<TokenId> ids_{-1, -1};
};

}  // namespace finesweep::worker
