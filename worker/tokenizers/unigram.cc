#include "worker/tokenizers/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finesweep::worker {
namespace {

/// What an unknown character costs beyond the least probable piece.
constexpr double unknown_penalty = 10;

}  // namespace

Result<std::unique_ptr<UnigramTokenizer>> UnigramTokenizer::make(const UnigramModel& model, TextPipeline pipeline,
                                                                 TokenizerTraits traits) {
  if (model.pieces.empty()) return Error{"its vocabulary is empty"};
  if (model.unknown < 0 || static_cast<std::size_t>(model.unknown) >= model.pieces.size()) {
    return Error{"its unknown token has the id " + std::to_string(model.unknown) + ", but there are " +
                 std::to_string(model.pieces.size()) + " pieces"};
  }
  Vocabulary vocabulary;
  vocabulary.reserve(model.pieces.size());
  for (const auto& [piece, score] : model.pieces) {
    if (!std::isfinite(score)) return Error{"the piece '" + piece.substr(0, 40) + "' has no finite score"};
    vocabulary.emplace_back(piece, static_cast<TokenId>(vocabulary.size()));
  }
  if (auto status = check_vocabulary(vocabulary, pipeline.added_tokens); !status) return status.error();
  return std::unique_ptr<UnigramTokenizer>(
      new UnigramTokenizer(model, vocabulary, std::move(pipeline), std::move(traits)));
}

UnigramTokenizer::UnigramTokenizer(const UnigramModel& model, const Vocabulary& vocabulary, TextPipeline pipeline,
                                   TokenizerTraits traits)
    : PipelineTokenizer(std::move(pipeline), vocabulary, std::move(traits)),
      unknown_(model.unknown),
      byte_fallback_(model.byte_fallback) {
  std::size_t bytes = 0;
  for (const auto& [piece, id] : vocabulary) bytes += piece.size();
  trie_.reserve(bytes);
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [piece, id] : vocabulary) {
    if (!piece.empty()) trie_.insert(piece, id);
    scores_.push_back(model.pieces[static_cast<std::size_t>(id)].second);
    least = std::min(least, scores_.back());
  }
  unknown_score_ = least - unknown_penalty;
  constexpr std::string_view digits = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < id_of_byte_.size(); ++byte) {
    id_of_byte_[byte] = model_id(std::string{'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'});
  }
}

void UnigramTokenizer::append_unknown(std::string_view text, std::vector<TokenId>& ids) const {
  if (const TokenId id = model_id(text); id >= 0) return ids.push_back(id);
  const auto id_of = [&](char c) { return id_of_byte_[static_cast<unsigned char>(c)]; };
  if (byte_fallback_ && std::all_of(text.begin(), text.end(), [&](char c) { return id_of(c) >= 0; })) {
    for (const char c : text) ids.push_back(id_of(c));
  } else {
    ids.push_back(unknown_);
  }
}

void UnigramTokenizer::append_model_ids(std::string_view word, std::vector<TokenId>& ids) {
  nodes_.assign(word.size() + 1, {});
  const auto offer = [&](std::size_t begin, std::size_t end, double score, TokenId id) {
    Node& node = nodes_[end];
    if (node.begin != unreached && !(score > node.score)) return;
    node = {score, static_cast<std::uint32_t>(begin), id};
  };
  for (std::size_t begin = 0; begin < word.size();) {
    const double before = nodes_[begin].score;
    const std::size_t character = code_point_at(word.data() + begin).size;
    bool covered = false;  // the character alone is a piece
    std::uint32_t node = ByteTrie::root;
    for (std::size_t end = begin; end < word.size();) {
      node = trie_.child(node, static_cast<unsigned char>(word[end++]));
      if (node == 0) break;
      const TokenId id = trie_.id_at(node);
      if (id < 0) continue;
      offer(begin, end, scores_[static_cast<std::size_t>(id)] + before, id);
      covered |= end - begin == character;
    }
    if (!covered) offer(begin, begin + character, unknown_score_ + before, unknown_);
    begin += character;
  }
  path_.clear();
  for (std::size_t end = word.size(); end > 0; end = nodes_[end].begin) {
    path_.push_back({0, nodes_[end].begin, nodes_[end].id});
  }
  std::size_t unknown_begin = word.size();
  for (std::size_t i = path_.size(); i-- > 0;) {
    const std::size_t begin = path_[i].begin, end = i > 0 ? path_[i - 1].begin : word.size();
    if (path_[i].id != unknown_) {
      ids.push_back(path_[i].id);
      continue;
    }
    unknown_begin = std::min(unknown_begin, begin);
    if (i > 0 && path_[i - 1].id == unknown_) continue;
    append_unknown(word.substr(unknown_begin, end - unknown_begin), ids);
    unknown_begin = word.size();
  }
}

}  // namespace finesweep::worker
