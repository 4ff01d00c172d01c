#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "worker/tokenizers/regular_expression.h"
#include "worker/tokenizers/split_pattern.h"
#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {

/// Takes the words that a PreTokenizer finds, in order. A word is valid during the call and never empty.
class WordSink {
 public:
  virtual void append_word(std::string_view word) = 0;

 protected:
  ~WordSink() = default;
};

/// The pre-tokenizers of tokenizer.json: each step splits what the one before it left. Byte-level text is not spelt
/// out in letters for bytes: words stay as they are written, and the model of a byte-level tokenizer reads bytes.
class PreTokenizer {
 public:
  /// What becomes of the characters that a Split finds.
  enum class Delimiter { removed, isolated, merged_with_previous, merged_with_next, contiguous };

  struct WhitespaceSplit {};
  struct Digits {
    bool individual = false;
  };
  /// Spaces become `replacement`, which also begins the text, and words begin with it.
  struct Metaspace {
    enum class Prepend { always, first, never };  // first: only at the very beginning of a text
    std::string replacement = "\u2581";
    Prepend prepend = Prepend::always;
    bool split = true;
  };
  /// Leaves the matches of the pattern, which cover the text.
  struct Pattern {
    SplitPattern pattern;
  };
  struct Split {
    std::string text;                               // looked for, where there is no expression
    std::shared_ptr<RegularExpression> expression;  // may be null
    Delimiter delimiter = Delimiter::isolated;
    bool invert = false;
  };
  struct PrefixSpace {};
  using Step = std::variant<WhitespaceSplit, Digits, Metaspace, Pattern, Split, PrefixSpace>;

  void add(Step step);

  /// `first`: nothing of the text stands before this part. Valid UTF-8.
  void split(std::string_view text, bool first, WordSink& sink);

 private:
  struct Run;
  struct Scratch {
    std::string text;
    std::vector<std::pair<std::size_t, std::size_t>> matches;
  };
  std::vector<Step> steps_;
  std::vector<Scratch> scratch_;  // of each step
  CharacterClasses classes_;
};

}  // namespace finesweep::worker
