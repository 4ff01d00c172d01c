#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// What short stretches of text became. Bounded and never emptied: when it is full, nothing more is kept. An open
/// table of 32-byte entries; texts of up to 15 bytes stand in the entry itself.
class TokenCache {
 public:
  static constexpr std::size_t max_bytes = 48;

  /// Valid until the next add().
  std::optional<std::span<const TokenId>> find(std::string_view text) const;
  void add(std::string_view text, std::span<const TokenId> ids);

 private:
  struct Key {
    std::uint64_t low = 0, high = 0;  // the text itself, or a hash and where it lies in texts_
  };
  struct Entry {
    Key key;
    std::uint32_t ids = 0;  // in ids_
    std::uint16_t count = 0;
    std::uint8_t size = 0;  // of the text; 0: empty
  };
  static Key short_key(std::string_view text);
  static std::uint64_t hash_of(std::string_view text);
  std::size_t slot_of(std::string_view text, const Key& key, std::uint64_t hash) const;
  void grow();

  std::vector<Entry> entries_ = std::vector<Entry>(1 << 12);
  std::size_t used_ = 0;
  std::string texts_;
  std::vector<TokenId> ids_;
};

}  // namespace finesweep::worker
