#include "worker/tokenizers/vocabulary.h"

#include <algorithm>

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {

Status check_vocabulary(const Vocabulary& vocabulary, const std::vector<AddedToken>& added_tokens) {
  constexpr std::size_t max_id = 1 << 24, max_bytes = std::size_t{1} << 28, max_token = 1 << 16;
  const std::size_t limit = std::min(max_id, (1 << 16) + 16 * (vocabulary.size() + added_tokens.size()));
  std::size_t bytes = 0;
  const auto check = [&](const std::string& token, TokenId id) -> Status {
    bytes += token.size();
    const std::string shown = token.substr(0, 40);
    if (id < 0 || static_cast<std::size_t>(id) >= limit) {
      return Error{"the token '" + shown + "' has the id " + std::to_string(id) + ", in a vocabulary of " +
                   std::to_string(vocabulary.size() + added_tokens.size()) + " tokens"};
    }
    if (token.size() > max_token) return Error{"the token with the id " + std::to_string(id) + " is too long"};
    if (bytes > max_bytes) return Error{"its vocabulary is larger than any that is known"};
    if (!is_valid_utf8(token)) return Error{"the token with the id " + std::to_string(id) + " is not UTF-8"};
    return {};
  };
  for (const auto& [token, id] : vocabulary) {
    if (auto status = check(token, id); !status) return status;
  }
  for (const AddedToken& token : added_tokens) {
    if (auto status = check(token.content, token.id); !status) return status;
  }
  return {};
}

}  // namespace finesweep::worker
