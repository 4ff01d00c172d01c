#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "worker/tokenizers/regular_expression.h"

namespace finesweep::worker {

/// The decoders of tokenizer.json: from the tokens' texts to one text, in steps. Without any, tokens are joined by
/// spaces.
class Decoder {
 public:
  /// From letters for bytes to bytes. A token with another letter is taken as it is. U+FFFD where it is not UTF-8.
  struct ByteLevel {};
  struct Metaspace {
    std::string replacement = "\u2581";
    bool drops_first = true;  // in the first token it is left out
  };
  /// The suffix that ends a word becomes a space, but at the end.
  struct Bpe {
    std::string suffix = "</w>";
  };
  /// <0x41> becomes a byte.
  struct ByteFallback {};
  struct Fuse {};
  struct Strip {
    std::string content;              // one character
    std::size_t start = 0, stop = 0;  // at most so many of them, at each token's begin and end
  };
  struct Replace {
    std::string text;                               // looked for, where there is no expression
    std::shared_ptr<RegularExpression> expression;  // may be null
    std::string content;
  };
  using Step = std::variant<ByteLevel, Metaspace, Bpe, ByteFallback, Fuse, Strip, Replace>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  std::string decode(std::vector<std::string> tokens) const;

 private:
  std::vector<Step> steps_;
};

/// The letter that stands for a byte in the vocabulary of a byte-level tokenizer, as UTF-8.
std::string_view letter_of_byte(unsigned char byte);
/// The bytes that the letters of a token stand for; false where a letter stands for none.
bool append_bytes_of_letters(std::string_view token, std::string& bytes);

}  // namespace finesweep::worker
