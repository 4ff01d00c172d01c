#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizers/byte_trie.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// An entry of `added_tokens` in tokenizer.json.
struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool single_word = false;             // only where no word character stands beside it
  bool lstrip = false, rstrip = false;  // swallows white space on that side
  bool normalized = false;              // looked for in normalised text, in its normalised form
  bool special = false;                 // left out by decode(…, SpecialTokens::skip)
};

/// Finds added tokens in text: leftmost, then longest, as the Hugging Face `tokenizers` package.
class AddedTokenMatcher {
 public:
  /// Part of a text: ordinary text, or a token (then `text` is what it covers).
  struct Piece {
    std::string_view text;
    std::optional<TokenId> id;
  };

  /// `content` is what is looked for. Empty ones match nothing.
  void add(const AddedToken& token, std::string content);
  bool empty() const { return tokens_.empty(); }
  /// Empty stretches are left out. `pieces` is cleared first.
  void split(std::string_view text, std::vector<Piece>& pieces) const;

 private:
  struct Pattern {
    AddedToken token;
    std::string content;
  };
  const Pattern* longest_at(std::string_view text, std::size_t position) const;

  std::vector<Pattern> tokens_;
  ByteTrie trie_;                      // of contents: indices into tokens_
  std::array<bool, 256> may_begin_{};  // by first byte
};

}  // namespace finesweep::worker
