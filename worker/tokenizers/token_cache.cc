#include "worker/tokenizers/token_cache.h"

#include <algorithm>
#include <cstring>

namespace finesweep::worker {
namespace {

constexpr std::size_t max_entries = 1 << 17, max_ids = 256, short_bytes = 15;

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD6E8FEB86659FD93u);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t load(const char* bytes, std::size_t count) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes, count);
  return value;
}

std::uint64_t up_to_eight(const char* bytes, std::size_t size) {
  if (size >= 4) return load(bytes, 4) | load(bytes + size - 4, 4) << (8 * (size - 4));
  if (size == 0) return 0;
  return load(bytes, 1) | load(bytes + size / 2, 1) << (8 * (size / 2)) |
         load(bytes + size - 1, 1) << (8 * (size - 1));
}

}  // namespace

TokenCache::Key TokenCache::short_key(std::string_view text) {
  if (text.size() <= 8) return {up_to_eight(text.data(), text.size()), 0};
  return {load(text.data(), 8), up_to_eight(text.data() + 8, text.size() - 8)};
}

std::uint64_t TokenCache::hash_of(std::string_view text) {
  std::uint64_t hash = text.size();
  for (std::size_t i = 0; i < text.size(); i += 8) {
    hash = mix(hash, up_to_eight(text.data() + i, std::min<std::size_t>(8, text.size() - i)));
  }
  return hash;
}

std::size_t TokenCache::slot_of(std::string_view text, const Key& key, std::uint64_t hash) const {
  const std::size_t mask = entries_.size() - 1;
  for (std::size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    const Entry& entry = entries_[slot];
    if (entry.size == 0) return slot;
    if (entry.size != text.size() || entry.key.low != key.low) continue;
    if (text.size() <= short_bytes ? entry.key.high == key.high
                                   : std::memcmp(texts_.data() + entry.key.high, text.data(), text.size()) == 0) {
      return slot;
    }
  }
}

std::optional<std::span<const TokenId>> TokenCache::find(std::string_view text) const {
  if (text.empty() || text.size() > max_bytes) return std::nullopt;
  Key key;
  std::uint64_t hash;
  if (text.size() <= short_bytes) {
    key = short_key(text);
    hash = mix(key.low + text.size(), key.high);
  } else {
    key.low = hash = hash_of(text);
  }
  const Entry& entry = entries_[slot_of(text, key, hash)];
  if (entry.size == 0) return std::nullopt;
  return std::span<const TokenId>(ids_).subspan(entry.ids, entry.count);
}

void TokenCache::add(std::string_view text, std::span<const TokenId> ids) {
  if (text.empty() || text.size() > max_bytes || ids.size() > max_ids || used_ >= max_entries) return;
  if (2 * (used_ + 1) > entries_.size()) grow();
  Entry entry;
  std::uint64_t hash;
  if (text.size() <= short_bytes) {
    entry.key = short_key(text);
    hash = mix(entry.key.low + text.size(), entry.key.high);
  } else {
    entry.key.low = hash = hash_of(text);
  }
  Entry& place = entries_[slot_of(text, entry.key, hash)];
  if (place.size != 0) return;
  if (text.size() > short_bytes) {
    entry.key.high = texts_.size();
    texts_ += text;
  }
  entry.ids = static_cast<std::uint32_t>(ids_.size());
  entry.count = static_cast<std::uint16_t>(ids.size());
  entry.size = static_cast<std::uint8_t>(text.size());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  place = entry;
  ++used_;
}

void TokenCache::grow() {
  std::vector<Entry> old(2 * entries_.size());
  old.swap(entries_);
  const std::size_t mask = entries_.size() - 1;
  for (const Entry& entry : old) {
    if (entry.size == 0) continue;
    const std::uint64_t hash =
        entry.size <= short_bytes ? mix(entry.key.low + entry.size, entry.key.high) : entry.key.low;
    std::size_t slot = hash & mask;
    while (entries_[slot].size != 0) slot = (slot + 1) & mask;
    entries_[slot] = entry;
  }
}

}  // namespace finesweep::worker
