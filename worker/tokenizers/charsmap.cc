#include "worker/tokenizers/charsmap.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstring>

#include "worker/tokenizers/graphemes.h"
#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {
namespace {

constexpr std::size_t long_grapheme = 6;

std::uint32_t label(std::uint32_t unit) {
  return unit & (0x80000000u | 0xFF);
}
std::uint32_t offset(std::uint32_t unit) {
  return (unit >> 10) << ((unit & 0x200) >> 6);
}
bool has_leaf(std::uint32_t unit) {
  return (unit >> 8) & 1;
}

bool is_boundary(std::string_view text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
}

}  // namespace

Result<Charsmap> Charsmap::parse(std::string_view bytes) {
  std::uint32_t size = 0;
  if (bytes.size() < sizeof size) return Error{"its map of characters is cut off"};
  std::memcpy(&size, bytes.data(), sizeof size);
  bytes.remove_prefix(sizeof size);
  if (size > bytes.size() || size < sizeof(std::uint32_t)) return Error{"its map of characters is cut off"};
  Charsmap map;
  map.units_.resize(size / sizeof(std::uint32_t));
  std::memcpy(map.units_.data(), bytes.data(), map.units_.size() * sizeof(std::uint32_t));
  // A length that is no multiple of four: the package reads on after the last whole unit.
  map.texts_ = bytes.substr(map.units_.size() * sizeof(std::uint32_t));
  if (!is_valid_utf8(map.texts_)) return Error{"its map of characters holds text that is not UTF-8"};
  for (std::size_t c = 0; c < map.keeps_ascii_.size(); ++c) {
    const char byte = static_cast<char>(c);
    map.keeps_ascii_[c] = byte != '\r' && !map.transform({&byte, 1});
  }
  return map;
}

std::optional<std::string_view> Charsmap::transform(std::string_view part) const {
  std::size_t node = offset(units_[0]);
  for (const char c : part) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) break;
    const std::uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const std::size_t begin = units_[node] & 0x7FFFFFFFu;
    if (begin == texts_.size()) return std::string_view();
    if (!is_boundary(texts_, begin)) break;
    return std::string_view(texts_).substr(begin, std::min(texts_.find('\0', begin), texts_.size()) - begin);
  }
  return std::nullopt;
}

void Charsmap::normalize(std::string_view text, std::string& out) const {
  out.clear();
  const auto is_plain = [&](std::size_t i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    return byte < 0x80 && keeps_ascii_[byte];
  };
  for (std::size_t i = 0; i < text.size();) {
    // What stands before a character that is not plain may make up a grapheme with it.
    std::size_t plain = i;
    while (plain < text.size() && is_plain(plain)) ++plain;
    if (plain < text.size() && plain > i) --plain;
    out += text.substr(i, plain - i);
    i = plain;
    // The same seen from behind: a plain character after a plain one begins a grapheme.
    std::size_t end = i;
    while (end < text.size() && !(end > i && is_plain(end) && is_plain(end - 1))) ++end;
    Graphemes graphemes(text.substr(i, end - i));
    for (std::string_view grapheme = graphemes.next(); !grapheme.empty(); grapheme = graphemes.next()) {
      if (grapheme.size() < long_grapheme) {
        if (const auto whole = transform(grapheme)) {
          out += *whole;
          continue;
        }
      }
      for (std::size_t at = 0; at < grapheme.size();) {
        const std::string_view one = grapheme.substr(at, code_point_at(grapheme.data() + at).size);
        out += transform(one).value_or(one);
        at += one.size();
      }
    }
    i = end;
  }
}

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size =
      EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                      reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  bytes.resize(static_cast<std::size_t>(size) - padding);
  return bytes;
}

}  // namespace finesweep::worker
