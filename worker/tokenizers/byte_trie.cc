#include "worker/tokenizers/byte_trie.h"

namespace finesweep::worker {

void ByteTrie::reserve(std::size_t bytes) {
  std::size_t size = 64;
  while (size < 2 * bytes) size *= 2;
  slots_.assign(size, {});
}

void ByteTrie::insert(std::string_view text, TokenId id) {
  std::uint32_t node = root;
  for (const char c : text) {
    const std::uint64_t key = std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
    Slot& slot = slots_[slot_of(key)];
    if (slot.key == 0) {
      slot = {key, static_cast<std::uint32_t>(ids_.size())};
      ids_.push_back(-1);
    }
    node = slot.node;
  }
  ids_[node] = id;
}

}  // namespace finesweep::worker
