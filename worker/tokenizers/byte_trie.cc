#include "worker/tokenizers/byte_trie.h"

#include <utility>

namespace finesweep::worker {

void ByteTrie::resize(std::size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.key != 0) slots_[slot_of(slot.key)] = slot;
  }
}

void ByteTrie::reserve(std::size_t bytes) {
  std::size_t size = slots_.size();
  while (size < 2 * bytes) size *= 2;
  if (size > slots_.size()) resize(size);
}

void ByteTrie::insert(std::string_view text, TokenId id) {
  std::uint32_t node = root;
  for (const char c : text) {
    const std::uint64_t key = std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
    if (const std::uint32_t known = slots_[slot_of(key)].node; known != 0) {
      node = known;
      continue;
    }
    if (2 * ids_.size() > slots_.size()) resize(2 * slots_.size());
    node = static_cast<std::uint32_t>(ids_.size());
    slots_[slot_of(key)] = {key, node};
    ids_.push_back(-1);
  }
  ids_[node] = id;
}

}  // namespace finesweep::worker
