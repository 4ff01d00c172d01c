#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizers/added_tokens.h"
#include "worker/tokenizers/decoder.h"
#include "worker/tokenizers/normalizer.h"
#include "worker/tokenizers/pre_tokenizer.h"
#include "worker/tokenizers/token_cache.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/tokenizers/vocabulary.h"

namespace finesweep::worker {

/// The way of a text around the model, as tokenizer.json describes it: added tokens are taken out, the rest is
/// normalised, searched for added tokens again, cut into words, and each word goes to the model.
struct TextPipeline {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::vector<AddedToken> added_tokens;
};

/// A tokenizer whose model turns one word at a time into ids. Words that come again are not worked out again.
class PipelineTokenizer : public Tokenizer, private WordSink {
 public:
  void append_ids(std::string_view text, std::vector<TokenId>& ids) override;
  std::string decode(std::span<const TokenId> ids, SpecialTokens special) const override;
  std::optional<TokenId> id_of_token(std::string_view token) const override;
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(tokens_.size()); }

 protected:
  PipelineTokenizer(TextPipeline pipeline, const Vocabulary& vocabulary, TokenizerTraits traits);

  /// Never empty, valid UTF-8.
  virtual void append_model_ids(std::string_view word, std::vector<TokenId>& ids) = 0;
  /// In the model's vocabulary; -1: none. Added tokens are not looked for.
  TokenId model_id(std::string_view token) const {
    const auto found = model_ids_.find(token);
    return found == model_ids_.end() ? -1 : found->second;
  }

 private:
  struct Token {
    std::uint32_t begin = 0;  // in texts_
    std::uint32_t size : 30 = 0;
    std::uint32_t exists : 1 = 0;
    std::uint32_t special : 1 = 0;
  };
  void set_token(TokenId id, std::string_view text, bool special);
  void append_section(std::string_view text, bool first);
  void append_word(std::string_view word) override;

  TextPipeline pipeline_;
  std::vector<Token> tokens_;  // by id
  std::string texts_;
  IdByToken model_ids_, added_ids_;
  AddedTokenMatcher raw_matcher_, normalized_matcher_;
  std::vector<AddedTokenMatcher::Piece> raw_pieces_, normalized_pieces_;
  TokenCache cache_;
  std::vector<TokenId>* ids_ = nullptr;  // of the call at work
};

}  // namespace finesweep::worker
