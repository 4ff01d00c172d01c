#include "worker/tokenizers/added_tokens.h"

#include <unicode/utf8.h>

#include <algorithm>

#include "worker/tokenizers/unicode.h"

namespace finesweep::worker {
namespace {

/// The code point before `end`, and where it begins.
char32_t code_point_before(std::string_view text, std::size_t& end) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  auto i = static_cast<std::int32_t>(end);
  UChar32 c;
  U8_PREV_OR_FFFD(bytes, 0, i, c);
  end = static_cast<std::size_t>(i);
  return static_cast<char32_t>(c);
}

char32_t code_point_after(std::string_view text, std::size_t& begin) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 c;
  U8_NEXT_OR_FFFD(bytes, begin, text.size(), c);
  return static_cast<char32_t>(c);
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0 && is_word_character(code_point_before(text, begin))) return false;
  return end == text.size() || !is_word_character(code_point_after(text, end));
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string content) {
  if (content.empty()) return;
  may_begin_[static_cast<unsigned char>(content[0])] = true;
  trie_.insert(content, static_cast<TokenId>(tokens_.size()));
  tokens_.push_back({token, std::move(content)});
}

const AddedTokenMatcher::Pattern* AddedTokenMatcher::longest_at(std::string_view text, std::size_t position) const {
  const Pattern* found = nullptr;
  std::uint32_t node = ByteTrie::root;
  while (position < text.size()) {
    node = trie_.child(node, static_cast<unsigned char>(text[position++]));
    if (node == 0) break;
    if (const TokenId index = trie_.id_at(node); index >= 0) found = &tokens_[static_cast<std::size_t>(index)];
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Piece>& pieces) const {
  pieces.clear();
  std::size_t taken = 0;  // what stands in `pieces` already
  for (std::size_t i = 0; i < text.size();) {
    const Pattern* found = may_begin_[static_cast<unsigned char>(text[i])] ? longest_at(text, i) : nullptr;
    if (found == nullptr) {
      ++i;
      continue;
    }
    std::size_t begin = i, end = i + found->content.size();
    i = end;  // a match that is not used is passed over all the same
    if (found->token.single_word && !stands_alone(text, begin, end)) continue;
    if (found->token.lstrip) {
      for (std::size_t before = begin; before > taken && is_white_space(code_point_before(text, before));)
        begin = before;
      begin = std::max(begin, taken);
    }
    if (found->token.rstrip) {
      for (std::size_t after = end; after < text.size() && is_white_space(code_point_after(text, after));)
        end = after;
    }
    if (taken < begin) pieces.push_back({text.substr(taken, begin - taken), std::nullopt});
    pieces.push_back({text.substr(begin, end - begin), found->token.id});
    taken = end;
  }
  if (taken < text.size()) pieces.push_back({text.substr(taken), std::nullopt});
}

}  // namespace finesweep::worker
