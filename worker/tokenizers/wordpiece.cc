#include "worker/tokenizers/wordpiece.h"

#include <algorithm>
#include <array>

namespace finesweep::worker {
namespace {

constexpr std::size_t max_cached_chunks = 1 << 17, max_cached_bytes = 48;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

/// The `cleanup` of the WordPiece decoder, applied to one token with the space before it.
void clean_up(std::string& text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> replacements{
      {{" .", "."},
       {" ?", "?"},
       {" !", "!"},
       {" ,", ","},
       {" ' ", "'"},
       {" n't", "n't"},
       {" 'm", "'m"},
       {" do not", " don't"},
       {" 's", "'s"},
       {" 've", "'ve"},
       {" 're", "'re"}}};
  for (const auto& [from, to] : replacements) replace_all(text, from, to);
}

}  // namespace

Result<std::unique_ptr<WordPieceTokenizer>> WordPieceTokenizer::make(const WordPieceModel& model,
                                                                     TokenizerTraits traits) {
  if (auto status = check_vocabulary(model.vocabulary, model.added_tokens); !status) return status.error();
  if (std::none_of(model.vocabulary.begin(), model.vocabulary.end(),
                   [&](const auto& entry) { return entry.first == model.unknown_token; })) {
    return Error{"its vocabulary lacks the unknown token '" + model.unknown_token + "'"};
  }
  return std::unique_ptr<WordPieceTokenizer>(new WordPieceTokenizer(model, std::move(traits)));
}

WordPieceTokenizer::WordPieceTokenizer(const WordPieceModel& model, TokenizerTraits traits)
    : Tokenizer(std::move(traits)),
      max_word_characters_(model.max_word_characters),
      decoder_prefix_(model.decoder_prefix),
      clean_up_decoded_(model.clean_up_decoded),
      text_(model.text) {
  const auto place = [&](TokenId id) -> Token& {
    if (static_cast<std::size_t>(id) >= tokens_.size()) tokens_.resize(static_cast<std::size_t>(id) + 1);
    return tokens_[static_cast<std::size_t>(id)];
  };
  std::size_t bytes = model.continuing_prefix.size();
  for (const auto& [token, id] : model.vocabulary) bytes += token.size();
  trie_.reserve(bytes);
  for (const auto& [token, id] : model.vocabulary) {
    trie_.insert(token, id);
    place(id) = {token, true, false};
    id_by_token_[token] = id;
  }
  unknown_ = id_by_token_[model.unknown_token];
  continuation_ = ByteTrie::root;
  for (const char c : model.continuing_prefix) {
    continuation_ = continuation_ == 0 ? 0 : trie_.child(continuation_, static_cast<unsigned char>(c));
  }
  for (const auto& token : model.added_tokens) {
    const std::string looked_for = token.normalized ? text_.normalized(token.content) : token.content;
    // The package asks whether the text that it decodes to is a special token's.
    place(token.id) = {looked_for, true, token.special && looked_for == token.content};
    id_by_token_[token.content] = token.id;
    (token.normalized ? normalized_matcher_ : raw_matcher_).add(token, looked_for);
  }
}

void WordPieceTokenizer::append_word(std::string_view word, std::size_t characters,
                                     std::vector<TokenId>& ids) const {
  if (characters > max_word_characters_) return ids.push_back(unknown_);
  const std::size_t before = ids.size();
  std::uint32_t start = ByteTrie::root;
  for (std::size_t position = 0; position < word.size(); start = continuation_) {
    TokenId best = -1;
    std::size_t best_end = position;
    std::uint32_t node = start;
    for (std::size_t i = position; node != 0 && i < word.size();) {
      node = trie_.child(node, static_cast<unsigned char>(word[i++]));
      if (node != 0 && trie_.id_at(node) >= 0) {
        best = trie_.id_at(node);
        best_end = i;
      }
    }
    if (best < 0) {
      ids.resize(before);
      return ids.push_back(unknown_);
    }
    ids.push_back(best);
    position = best_end;
  }
}

void WordPieceTokenizer::append_chunk(std::string_view chunk, std::vector<TokenId>& ids) {
  const auto tokenize = [&] {
    text_.for_words(chunk,
                    [&](std::string_view word, std::size_t characters) { append_word(word, characters, ids); });
  };
  if (chunk.size() > max_cached_bytes) return tokenize();
  if (const auto found = cache_.find(chunk); found != cache_.end()) {
    const auto first = cached_ids_.begin() + found->second.begin;
    ids.insert(ids.end(), first, first + found->second.count);
    return;
  }
  const std::size_t before = ids.size();
  tokenize();
  if (cache_.size() >= max_cached_chunks) return;
  cache_.emplace(chunk, Cached{static_cast<std::uint32_t>(cached_ids_.size()),
                               static_cast<std::uint32_t>(ids.size() - before)});
  cached_ids_.insert(cached_ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
}

void WordPieceTokenizer::append_text(std::string_view text, std::vector<TokenId>& ids) {
  if (!normalized_matcher_.empty()) {
    const std::string normalized = text_.normalized(text);
    normalized_matcher_.split(normalized, normalized_pieces_);
    for (const auto& piece : normalized_pieces_) {
      if (piece.id) {
        ids.push_back(*piece.id);
        continue;
      }
      text_.for_words_of_normalized(
          piece.text, [&](std::string_view word, std::size_t characters) { append_word(word, characters, ids); });
    }
    return;
  }
  // Words never reach across ASCII white space, so what stands between may be cached as it was written.
  const auto is_break = [](char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; };
  for (std::size_t i = 0; i < text.size();) {
    while (i < text.size() && is_break(text[i])) ++i;
    std::size_t end = i;
    while (end < text.size() && !is_break(text[end])) ++end;
    if (end > i) append_chunk(text.substr(i, end - i), ids);
    i = end;
  }
}

void WordPieceTokenizer::append_ids(std::string_view text, std::vector<TokenId>& ids) {
  if (raw_matcher_.empty()) return append_text(text, ids);
  raw_matcher_.split(text, raw_pieces_);
  for (const auto& piece : raw_pieces_) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      append_text(piece.text, ids);
    }
  }
}

std::string WordPieceTokenizer::decode(std::span<const TokenId> ids, SpecialTokens special) const {
  std::string text;
  bool first = true;
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= tokens_.size()) continue;
    const Token& token = tokens_[static_cast<std::size_t>(id)];
    if (!token.exists || (special == SpecialTokens::skip && token.special)) continue;
    std::string part = token.text;
    if (!first) {
      if (part.starts_with(decoder_prefix_)) {
        part.erase(0, decoder_prefix_.size());
      } else {
        part.insert(0, 1, ' ');
      }
    }
    if (clean_up_decoded_) clean_up(part);
    text += part;
    first = false;
  }
  return text;
}

std::optional<TokenId> WordPieceTokenizer::id_of_token(std::string_view token) const {
  const auto found = id_by_token_.find(token);
  if (found == id_by_token_.end()) return std::nullopt;
  return found->second;
}

}  // namespace finesweep::worker
