#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {

/// The regular expressions that byte-level BPE models split text with, matched by hand. A pattern covers all of a
/// text: every match begins where the one before it ends.
class SplitPattern {
 public:
  /// GPT-2, RoBERTa, GPT-Neo, SmolLM2:
  /// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  static SplitPattern gpt2() { return {}; }
  /// GPT-4, Llama 3 (3 digits), Qwen2 (1):
  /// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|
  /// \s*[\r\n]+|\s+(?!\S)|\s+
  static SplitPattern gpt4(std::size_t digits);
  /// The pattern that is written so in tokenizer.json, if it is one of these.
  static std::optional<SplitPattern> known(std::string_view regular_expression);

  /// Where the match that begins at `begin` ends; valid UTF-8, `begin` < `end`.
  const char* next(const CharacterClasses& classes, const char* begin, const char* end) const {
    return is_gpt4_ ? next_gpt4(classes, begin, end) : next_gpt2(classes, begin, end);
  }

 private:
  const char* next_gpt2(const CharacterClasses& classes, const char* begin, const char* end) const;
  const char* next_gpt4(const CharacterClasses& classes, const char* begin, const char* end) const;

  bool is_gpt4_ = false;
  std::size_t digits_ = 0;  // of gpt4: how many at a time
};

}  // namespace finesweep::worker
