#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "worker/tokenizers/added_tokens.h"
#include "worker/tokenizers/bert_text.h"
#include "worker/tokenizers/byte_trie.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/vocabulary.h"

namespace finesweep::worker {

struct WordPieceModel {
  Vocabulary vocabulary;
  std::string unknown_token = "[UNK]";
  /// Of pieces that do not begin a word.
  std::string continuing_prefix = "##";
  /// In code points; a longer word is unknown.
  std::size_t max_word_characters = 100;
  BertTextOptions text;
  std::vector<AddedToken> added_tokens;
  /// Of the decoder: joins " ." to "." and the like.
  std::string decoder_prefix = "##";
  bool clean_up_decoded = true;
};

/// WordPiece (https://arxiv.org/abs/1609.08144) as BERT uses it: the longest piece of the vocabulary, again and
/// again; a word that cannot be cut to its end is unknown.
class WordPieceTokenizer : public Tokenizer {
 public:
  static Result<std::unique_ptr<WordPieceTokenizer>> make(const WordPieceModel& model, TokenizerTraits traits);

  void append_ids(std::string_view text, std::vector<TokenId>& ids) override;
  std::string decode(std::span<const TokenId> ids, SpecialTokens special) const override;
  std::optional<TokenId> id_of_token(std::string_view token) const override;
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(tokens_.size()); }

 private:
  struct Token {
    std::string text;
    bool exists = false, special = false;
  };
  /// A stretch of cached_ids_.
  struct Cached {
    std::uint32_t begin = 0, count = 0;
  };

  WordPieceTokenizer(const WordPieceModel& model, TokenizerTraits traits);
  void append_text(std::string_view text, std::vector<TokenId>& ids);
  void append_chunk(std::string_view chunk, std::vector<TokenId>& ids);
  void append_word(std::string_view word, std::size_t characters, std::vector<TokenId>& ids) const;

  ByteTrie trie_;
  std::uint32_t continuation_ = 0;  // where the trie stands after the prefix
  TokenId unknown_ = 0;
  std::size_t max_word_characters_ = 100;
  std::string decoder_prefix_;
  bool clean_up_decoded_ = true;
  BertText text_;
  std::vector<Token> tokens_;  // by id
  IdByToken id_by_token_;
  AddedTokenMatcher raw_matcher_, normalized_matcher_;
  std::vector<AddedTokenMatcher::Piece> raw_pieces_, normalized_pieces_;

  /// What stretches without ASCII white space became; bounded, never emptied.
  std::unordered_map<std::string, Cached, StringHash, std::equal_to<>> cache_;
  std::vector<TokenId> cached_ids_;
};

}  // namespace finesweep::worker
