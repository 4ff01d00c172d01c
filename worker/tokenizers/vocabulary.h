#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "worker/tokenizers/added_tokens.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Tokens and their ids, which need not be contiguous.
using Vocabulary = std::vector<std::pair<std::string, TokenId>>;

struct StringHash : std::hash<std::string_view> {
  using is_transparent = void;
};
using IdByToken = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

/// A vocabulary that claims no more memory than its tokens are worth: ids from 0, few of them unused, texts in
/// UTF-8.
Status check_vocabulary(const Vocabulary& vocabulary, const std::vector<AddedToken>& added_tokens);

}  // namespace finesweep::worker
