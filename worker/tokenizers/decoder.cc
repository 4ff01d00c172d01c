#include "worker/tokenizers/decoder.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "worker/tokenizers/normalizer.h"
#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {
namespace {

/// Bytes that are printable in Latin-1 stand for themselves, the others for letters from U+0100 on.
struct ByteLetters {
  std::array<std::string, 256> letters;
  std::array<std::int16_t, 0x144> bytes{};  // by code point; -1: none

  ByteLetters() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t letter = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(letters[static_cast<std::size_t>(byte)], letter);
      bytes[letter] = static_cast<std::int16_t>(byte);
    }
  }
};

const ByteLetters& byte_letters() {
  static const ByteLetters table;
  return table;
}

std::string joined(const std::vector<std::string>& tokens, std::string_view between) {
  std::string text;
  for (const std::string& token : tokens) {
    if (&token != &tokens.front()) text += between;
    text += token;
  }
  return text;
}

int hexadecimal(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// The byte that a token like <0x41> stands for; -1: none.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  // A sign, which the package's number parser takes too.
  if (token[3] == '+') return hexadecimal(token[4]);
  const int high = hexadecimal(token[3]), low = hexadecimal(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

struct ApplyDecoder {
  std::vector<std::string>& tokens;

  void operator()(Decoder::ByteLevel) {
    std::string bytes;
    for (const std::string& token : tokens) {
      const std::size_t before = bytes.size();
      if (append_bytes_of_letters(token, bytes)) continue;
      bytes.resize(before);
      bytes += token;
    }
    tokens = {is_valid_utf8(bytes) ? std::move(bytes) : replace_invalid_utf8(bytes)};
  }

  void operator()(const Decoder::Metaspace& step) {
    for (std::string& token : tokens) {
      std::string changed;
      const bool first = &token == &tokens.front();
      replace_all(token, step.replacement, first && step.drops_first ? "" : " ", changed);
      token = std::move(changed);
    }
  }

  void operator()(const Decoder::Bpe& step) {
    for (std::string& token : tokens) {
      std::string changed;
      replace_all(token, step.suffix, &token == &tokens.back() ? "" : " ", changed);
      token = std::move(changed);
    }
  }

  void operator()(Decoder::ByteFallback) {
    std::vector<std::string> result;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (is_valid_utf8(bytes)) {
        result.push_back(bytes);
      } else {
        result.insert(result.end(), bytes.size(), "\uFFFD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        bytes += static_cast<char>(byte);
        continue;
      }
      flush();
      result.push_back(std::move(token));
    }
    flush();
    tokens = std::move(result);
  }

  void operator()(Decoder::Fuse) { tokens = {joined(tokens, "")}; }

  void operator()(const Decoder::Strip& step) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < step.start && rest.starts_with(step.content); ++i) {
        rest.remove_prefix(step.content.size());
      }
      for (std::size_t i = 0; i < step.stop && rest.ends_with(step.content); ++i) {
        rest.remove_suffix(step.content.size());
      }
      token = std::string(rest);
    }
  }

  void operator()(const Decoder::Replace& step) {
    std::vector<std::pair<std::size_t, std::size_t>> matches;
    for (std::string& token : tokens) {
      std::string changed;
      if (step.expression) {
        step.expression->find_all(token, matches);
        std::size_t taken = 0;
        for (const auto& [begin, end] : matches) {
          changed += token.substr(taken, begin - taken) + step.content;
          taken = end;
        }
        changed += token.substr(taken);
      } else {
        replace_all(token, step.text, step.content, changed);
      }
      token = std::move(changed);
    }
  }
};

}  // namespace

std::string Decoder::decode(std::vector<std::string> tokens) const {
  if (steps_.empty()) return joined(tokens, " ");
  if (tokens.empty()) return {};
  for (const Step& step : steps_) std::visit(ApplyDecoder{tokens}, step);
  return joined(tokens, "");
}

std::string_view letter_of_byte(unsigned char byte) {
  return byte_letters().letters[byte];
}

bool append_bytes_of_letters(std::string_view token, std::string& bytes) {
  const auto& table = byte_letters().bytes;
  for (std::size_t i = 0; i < token.size();) {
    const CodePoint c = code_point_at(token.data() + i);
    if (c.value >= table.size() || table[c.value] < 0) return false;
    bytes += static_cast<char>(table[c.value]);
    i += c.size;
  }
  return true;
}

}  // namespace finesweep::worker
