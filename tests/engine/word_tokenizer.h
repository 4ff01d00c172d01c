#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// For tests: a word between spaces is a token, so is every line break; numbered from 10 as they come. Ids that a
/// test names before: 0 padding, 1 end, 2 beginning.
class WordTokenizer : public Tokenizer {
 public:
  enum class Around { nothing, beginning, end };
  explicit WordTokenizer(Around around = Around::nothing, bool has_end = true)
      : Tokenizer(traits_for(around, has_end)) {}

  void append_ids(std::string_view text, std::vector<TokenId>& ids) override {
    ++texts;
    std::string word;
    const auto end_word = [&] {
      if (!word.empty()) ids.push_back(id(word));
      word.clear();
    };
    for (const char c : text) {
      if (c == ' ' || c == '\n') end_word();
      if (c == '\n') ids.push_back(id("\n"));
      if (c != ' ' && c != '\n') word += c;
    }
    end_word();
  }
  std::string decode(std::span<const TokenId> ids, SpecialTokens = SpecialTokens::keep) const override {
    std::string text;
    for (const TokenId id : ids) {
      const std::string word = id == 0 ? "<pad>" : id == 1 ? "<end>" : id == 2 ? "<begin>" : words_.at(id);
      text += (text.empty() ? "" : " ") + (word == "\n" ? "|" : word);
    }
    return text;
  }
  std::optional<TokenId> id_of_token(std::string_view) const override { return std::nullopt; }
  std::int64_t vocabulary_size() const override { return 1000; }

  int texts = 0;  // that were turned into ids

 private:
  static TokenizerTraits traits_for(Around around, bool has_end) {
    TokenizerTraits traits;
    traits.pad = 0;
    if (has_end) traits.end = 1;
    auto& single = traits.sequence_template.single;
    if (around == Around::beginning) single = {{-1, {2}, 0}, {0, {}, 0}};
    if (around == Around::end) single = {{0, {}, 0}, {-1, {1}, 0}};
    return traits;
  }
  TokenId id(const std::string& word) {
    const auto [found, is_new] = ids_.emplace(word, static_cast<TokenId>(10 + ids_.size()));
    if (is_new) words_[found->second] = word;
    return found->second;
  }

  std::map<std::string, TokenId> ids_;
  std::map<TokenId, std::string> words_;
};

}  // namespace finesweep::worker
