#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "worker/tokenizers/charsmap.h"
#include "worker/tokenizers/regular_expression.h"
#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {

/// The normalisers of tokenizer.json that change text before it is split, applied in order.
class Normalizer {
 public:
  struct Replace {
    std::string text;                               // looked for, where there is no expression
    std::shared_ptr<RegularExpression> expression;  // may be null
    std::string content;
  };
  struct Prepend {
    std::string content;  // not before an empty text
  };
  struct Strip {
    bool left = true, right = true;
  };
  struct Lowercase {};
  /// Drops combining marks.
  struct StripAccents {};
  /// Of Unicode 9, like the package's tables.
  enum class Form { nfc, nfd, nfkc, nfkd };
  using Step = std::variant<Replace, Prepend, Strip, Lowercase, StripAccents, Form, Charsmap>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }

  /// Of valid UTF-8. Valid until the next call; `text` itself where there is nothing to do.
  std::string_view normalize(std::string_view text);
  /// The last call took characters away at the beginning, so that what is left does not begin where the text did.
  bool dropped_beginning() const { return dropped_beginning_; }

 private:
  std::vector<Step> steps_;
  CharacterClasses classes_;
  std::string buffers_[2];
  bool dropped_beginning_ = false;
};

/// Every occurrence, left to right; nothing where `from` is empty.
void replace_all(std::string_view text, std::string_view from, std::string_view to, std::string& out);

}  // namespace finesweep::worker
