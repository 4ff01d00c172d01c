#include "worker/tokenizers/bpe.h"

#include <algorithm>

namespace finesweep::worker {
namespace {

std::string hexadecimal_token(char c) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  const auto byte = static_cast<unsigned char>(c);
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

}  // namespace

Result<std::unique_ptr<BpeTokenizer>> BpeTokenizer::make(const BpeModel& model, TextPipeline pipeline,
                                                         TokenizerTraits traits) {
  if (auto status = check_vocabulary(model.vocabulary, pipeline.added_tokens); !status) return status.error();
  std::unique_ptr<BpeTokenizer> tokenizer(new BpeTokenizer(model, std::move(pipeline), std::move(traits)));
  if (auto status = tokenizer->add_merges(model); !status) return status.error();
  if (model.unknown_token && !tokenizer->unknown_) {
    return Error{"its vocabulary lacks the unknown token '" + *model.unknown_token + "'"};
  }
  return tokenizer;
}

BpeTokenizer::BpeTokenizer(const BpeModel& model, TextPipeline pipeline, TokenizerTraits traits)
    : PipelineTokenizer(std::move(pipeline), model.vocabulary, std::move(traits)),
      continuing_prefix_(model.continuing_prefix),
      end_suffix_(model.end_suffix),
      fuse_unknown_(model.fuse_unknown),
      byte_fallback_(model.byte_fallback),
      ignore_merges_(model.ignore_merges),
      byte_level_(model.byte_level) {
  if (model.unknown_token) {
    if (const TokenId id = model_id(*model.unknown_token); id >= 0) unknown_ = id;
  }
  bool all_known = true;
  for (std::size_t byte = 0; byte < id_of_byte_.size(); ++byte) {
    id_of_byte_[byte] = model_id(letter_of_byte(static_cast<unsigned char>(byte)));
    all_known &= id_of_byte_[byte] >= 0;
  }
  bytes_are_tokens_ = byte_level_ && continuing_prefix_.empty() && end_suffix_.empty() &&
                      (all_known || (!unknown_ && !byte_fallback_));
}

Status BpeTokenizer::add_merges(const BpeModel& model) {
  merges_.reserve(model.merges.size());
  std::uint32_t rank = 0;
  std::string merged;
  for (const auto& [left, right] : model.merges) {
    const auto refuse = [&, &left = left, &right = right](const std::string& token) {  // clang before 16
      return Error{"its merge " + std::to_string(rank + 1) + " ('" + left.substr(0, 40) + "' and '" +
                   right.substr(0, 40) + "') needs the token '" + token.substr(0, 80) +
                   "', which the vocabulary lacks"};
    };
    const TokenId left_id = model_id(left), right_id = model_id(right);
    if (left_id < 0) return refuse(left);
    if (right_id < 0) return refuse(right);
    merged = left;
    merged.append(right, std::min(right.size(), continuing_prefix_.size()));
    const TokenId id = model_id(merged);
    if (id < 0) return refuse(merged);
    merges_.add(left_id, right_id, rank++, id);
  }
  return {};
}

/// merge_word of the package, in its order: bytes of a fallback do not wait for an unknown token before them.
void BpeTokenizer::read_characters(std::string_view word) {
  constexpr TokenId none = -1;
  TokenId pending = none;  // an unknown token that may yet be fused with the next
  for (std::size_t i = 0; i < word.size();) {
    const std::size_t size = code_point_at(word.data() + i).size;
    character_.clear();
    if (i > 0) character_ = continuing_prefix_;
    character_ += word.substr(i, size);
    i += size;
    if (i == word.size()) character_ += end_suffix_;
    if (const TokenId id = model_id(character_); id >= 0) {
      if (pending != none) symbols_.push_back(pending);
      pending = none;
      symbols_.push_back(id);
      continue;
    }
    if (byte_fallback_) {
      const std::size_t before = symbols_.size();
      bool whole = true;
      for (const char byte : character_) {
        const TokenId id = model_id(hexadecimal_token(byte));
        whole &= id >= 0;
        symbols_.push_back(id);
      }
      if (whole) continue;
      symbols_.resize(before);
    }
    if (!unknown_) continue;
    if (pending != none && !fuse_unknown_) symbols_.push_back(pending);
    pending = *unknown_;
  }
  if (pending != none) symbols_.push_back(pending);
}

void BpeTokenizer::append_model_ids(std::string_view word, std::vector<TokenId>& ids) {
  symbols_.clear();
  if (byte_level_ && (ignore_merges_ || !bytes_are_tokens_)) {
    letters_.clear();
    for (const char byte : word) letters_ += letter_of_byte(static_cast<unsigned char>(byte));
  }
  if (ignore_merges_) {
    const TokenId id = model_id(byte_level_ ? std::string_view(letters_) : word);
    if (id >= 0) return ids.push_back(id);
  }
  if (bytes_are_tokens_) {
    for (const char byte : word) {
      const TokenId id = id_of_byte_[static_cast<unsigned char>(byte)];
      if (id >= 0) symbols_.push_back(id);
    }
  } else {
    read_characters(byte_level_ ? std::string_view(letters_) : word);
  }
  merges_.apply(symbols_);
  ids.insert(ids.end(), symbols_.begin(), symbols_.end());
}

std::optional<std::pair<std::string, std::string>> split_merge(std::string_view line) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) return std::nullopt;
  return std::pair(std::string(line.substr(0, space)), std::string(line.substr(space + 1)));
}

}  // namespace finesweep::worker
