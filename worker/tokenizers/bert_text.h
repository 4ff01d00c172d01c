#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {

/// The `BertNormalizer` of tokenizer.json.
struct BertTextOptions {
  /// Drops control characters and U+FFFD; every white space becomes a space.
  bool clean_text = true;
  /// Spaces around CJK ideographs.
  bool separate_ideographs = true;
  /// Canonical decomposition (NFD), then non-spacing marks are dropped.
  bool strip_accents = true;
  bool lowercase = true;
};

/// Normalises text and splits it into words as the Hugging Face `tokenizers` package does (BertNormalizer and
/// BertPreTokenizer), down to the versions of Unicode that it uses in each place: general categories of 8.0,
/// decompositions of 9.0, lower case of 17.0. Code points unassigned there are kept as they are.
///
/// Builds its tables as it meets code points: one thread at a time.
class BertText {
 public:
  explicit BertText(const BertTextOptions& options);
  ~BertText();

  /// Calls `use(std::string_view word, std::size_t characters)` for every word of `text` after normalisation. Words
  /// are UTF-8 and valid during the call.
  template <typename Use>
  void for_words(std::string_view text, Use&& use) {
    if (is_ascii(text)) {
      ascii_words(text, use);
    } else {
      normalize(text, code_points_);
      split(code_points_, use);
    }
  }
  /// The same for text that is normalised already.
  template <typename Use>
  void for_words_of_normalized(std::string_view text, Use&& use) {
    decode(text, code_points_);
    split(code_points_, use);
  }
  std::string normalized(std::string_view text);

 private:
  enum Flag : std::uint8_t {
    known = 1,
    dropped = 2,       // by clean_text
    space = 4,         // White_Space
    ideograph = 8,     // gets spaces around it
    punctuation = 16,  // a word of its own
    nonspacing = 32,   // dropped by strip_accents
    decomposes = 64,
    lowers = 128,
  };
  struct Properties {
    std::uint8_t flags = 0;
    std::uint8_t combining_class = 0;
    std::uint16_t mapping = 0;  // in mappings_
  };
  struct Mapping {
    std::u32string decomposition, lower;
  };

  const Properties& properties(char32_t c) {
    auto& page = pages_[c >> 8];
    if (!page) page = std::make_unique<std::array<Properties, 256>>();
    Properties& found = (*page)[c & 255];
    if (!(found.flags & known)) found = look_up(c);
    return found;
  }
  Properties look_up(char32_t c);
  void normalize(std::string_view text, std::u32string& out);
  void decompose(std::u32string& text);
  static void decode(std::string_view text, std::u32string& out);
  static bool is_ascii(std::string_view text);

  template <typename Use>
  void ascii_words(std::string_view text, Use& use) {
    word_.clear();
    for (const char c : text) {
      const Ascii& what = ascii_[static_cast<unsigned char>(c)];
      if (what.action == Ascii::keep) {
        word_ += what.becomes;
      } else if (what.action != Ascii::drop) {
        if (!word_.empty()) use(std::string_view(word_), word_.size());
        word_.clear();
        if (what.action == Ascii::alone) use(std::string_view(&c, 1), std::size_t{1});
      }
    }
    if (!word_.empty()) use(std::string_view(word_), word_.size());
  }

  template <typename Use>
  void split(const std::u32string& text, Use& use) {
    std::size_t characters = 0;
    const auto flush = [&] {
      if (characters > 0) use(std::string_view(word_), characters);
      word_.clear();
      characters = 0;
    };
    word_.clear();
    for (const char32_t c : text) {
      const std::uint8_t flags = properties(c).flags;
      if (flags & space) {
        flush();
        continue;
      }
      if (flags & punctuation) flush();
      append_utf8(word_, c);
      ++characters;
      if (flags & punctuation) flush();
    }
    flush();
  }

  struct Ascii {
    enum Action : std::uint8_t { keep, drop, end, alone };  // end: of a word
    Action action = keep;
    char becomes = 0;
  };

  BertTextOptions options_;
  std::array<std::unique_ptr<std::array<Properties, 256>>, 0x1100> pages_;
  std::vector<Mapping> mappings_;
  std::array<Ascii, 128> ascii_{};
  std::string word_;
  std::u32string code_points_, scratch_;
};

}  // namespace finesweep::worker
