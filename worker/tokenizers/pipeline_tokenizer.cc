#include "worker/tokenizers/pipeline_tokenizer.h"

#include <algorithm>

namespace finesweep::worker {

PipelineTokenizer::PipelineTokenizer(TextPipeline pipeline, const Vocabulary& vocabulary, TokenizerTraits traits)
    : Tokenizer(std::move(traits)), pipeline_(std::move(pipeline)) {
  model_ids_.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary) {
    set_token(id, token, false);
    model_ids_.insert_or_assign(token, id);
  }
  for (const AddedToken& token : pipeline_.added_tokens) {
    const std::string looked_for =
        token.normalized ? std::string(pipeline_.normalizer.normalize(token.content)) : token.content;
    // The package asks whether the text that it decodes to is a special token's.
    set_token(token.id, looked_for, token.special && looked_for == token.content);
    added_ids_.insert_or_assign(token.content, token.id);
    (token.normalized ? normalized_matcher_ : raw_matcher_).add(token, looked_for);
  }
}

void PipelineTokenizer::set_token(TokenId id, std::string_view text, bool special) {
  const auto index = static_cast<std::size_t>(id);
  if (index >= tokens_.size()) tokens_.resize(index + 1);
  Token& token = tokens_[index];
  token.begin = static_cast<std::uint32_t>(texts_.size());
  token.size = static_cast<std::uint32_t>(text.size()) & 0x3FFFFFFF;
  token.exists = 1;
  token.special = special ? 1 : 0;
  texts_ += text;
}

void PipelineTokenizer::append_word(std::string_view word) {
  std::vector<TokenId>& ids = *ids_;
  if (const auto known = cache_.find(word)) {
    ids.insert(ids.end(), known->begin(), known->end());
    return;
  }
  const std::size_t before = ids.size();
  append_model_ids(word, ids);
  cache_.add(word, std::span<const TokenId>(ids).subspan(before));
}

void PipelineTokenizer::append_section(std::string_view text, bool first) {
  text = pipeline_.normalizer.normalize(text);
  first = first && !pipeline_.normalizer.dropped_beginning();
  if (normalized_matcher_.empty()) return pipeline_.pre_tokenizer.split(text, first, *this);
  normalized_matcher_.split(text, normalized_pieces_);
  for (const auto& piece : normalized_pieces_) {
    if (piece.id) {
      ids_->push_back(*piece.id);
    } else {
      pipeline_.pre_tokenizer.split(piece.text, first && piece.text.data() == text.data(), *this);
    }
  }
}

void PipelineTokenizer::append_ids(std::string_view text, std::vector<TokenId>& ids) {
  std::string repaired;
  if (!is_valid_utf8(text)) text = repaired = replace_invalid_utf8(text);
  ids_ = &ids;
  if (raw_matcher_.empty()) return append_section(text, true);
  raw_matcher_.split(text, raw_pieces_);
  for (const auto& piece : raw_pieces_) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      append_section(piece.text, piece.text.data() == text.data());
    }
  }
}

std::string PipelineTokenizer::decode(std::span<const TokenId> ids, SpecialTokens special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size()) continue;
    const Token& token = tokens_[static_cast<std::size_t>(id)];
    if (!token.exists || (special == SpecialTokens::skip && token.special)) continue;
    tokens.push_back(texts_.substr(token.begin, token.size));
  }
  return pipeline_.decoder.decode(std::move(tokens));
}

std::optional<TokenId> PipelineTokenizer::id_of_token(std::string_view token) const {
  if (const auto found = added_ids_.find(token); found != added_ids_.end()) return found->second;
  const TokenId id = model_id(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

}  // namespace finesweep::worker
