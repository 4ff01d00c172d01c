#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// data.prompt, with the tokenizer that reads it: from a source to the ids that stand before the target.
class Prompt {
 public:
  /// `text` holds {source} once; empty: the source alone. `around`: what the tokenizer puts around a text. A
  /// decoder goes on writing behind the prompt, so it gets no more than the tokens that begin a text; an encoder
  /// gets all.
  enum class Around { beginning, both_sides };
  static Result<Prompt> make(const std::string& text, Around around, Tokenizer& tokenizer);

  /// The tokens of a prompt with an empty source; no prompt can be cut to fewer.
  std::int64_t fixed_tokens() const { return static_cast<std::int64_t>(before_ + after_.size()); }

  struct Ids {
    std::vector<TokenId> ids;
    bool is_cut = false;
  };
  /// At most `most` tokens, which is no less than fixed_tokens(): a source that is too long loses its end, the
  /// words around it stay.
  Ids encode(std::string_view source, std::int64_t most);

 private:
  explicit Prompt(Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  Tokenizer* tokenizer_;
  std::string text_before_, text_after_;
  std::vector<TokenId> beginning_, end_;  // the tokenizer's own
  std::size_t before_ = 0;                // tokens before the source
  std::vector<TokenId> after_;            // tokens after the source, where it was cut
};

}  // namespace finesweep::worker
