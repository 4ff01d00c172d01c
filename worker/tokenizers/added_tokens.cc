#include "worker/tokenizers/added_tokens.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>

#include "worker/tokenizers/bert_text.h"

namespace finesweep::worker {
namespace {

bool is_space(UChar32 c) {
  return u_hasBinaryProperty(c, UCHAR_WHITE_SPACE);
}

/// The code point before `end`, and where it begins.
UChar32 code_point_before(std::string_view text, std::size_t& end) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  auto i = static_cast<std::int32_t>(end);
  UChar32 c;
  U8_PREV_OR_FFFD(bytes, 0, i, c);
  end = static_cast<std::size_t>(i);
  return c;
}

UChar32 code_point_at(std::string_view text, std::size_t& begin) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  UChar32 c;
  U8_NEXT_OR_FFFD(bytes, begin, text.size(), c);
  return c;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  const auto is_word = [](UChar32 c) { return BertText::is_word_character(static_cast<char32_t>(c)); };
  if (begin > 0 && is_word(code_point_before(text, begin))) return false;
  return end == text.size() || !is_word(code_point_at(text, end));
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string content) {
  if (content.empty()) return;
  auto& same_first = by_first_byte_[static_cast<unsigned char>(content[0])];
  const std::size_t length = content.size();
  const auto place = std::find_if(same_first.begin(), same_first.end(),
                                  [&](std::size_t i) { return tokens_[i].content.size() < length; });
  same_first.insert(place, tokens_.size());
  tokens_.push_back({token, std::move(content)});
}

const AddedTokenMatcher::Pattern* AddedTokenMatcher::longest_at(std::string_view text, std::size_t position) const {
  for (const std::size_t i : by_first_byte_[static_cast<unsigned char>(text[position])]) {
    if (text.substr(position).starts_with(tokens_[i].content)) return &tokens_[i];
  }
  return nullptr;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Piece>& pieces) const {
  pieces.clear();
  std::size_t taken = 0;  // what stands in `pieces` already
  for (std::size_t i = 0; i < text.size();) {
    const Pattern* found = longest_at(text, i);
    if (found == nullptr) {
      ++i;
      continue;
    }
    std::size_t begin = i, end = i + found->content.size();
    i = end;  // a match that is not used is passed over all the same
    if (found->token.single_word && !stands_alone(text, begin, end)) continue;
    if (found->token.lstrip) {
      for (std::size_t before = begin; before > taken && is_space(code_point_before(text, before));) begin = before;
      begin = std::max(begin, taken);
    }
    if (found->token.rstrip) {
      for (std::size_t after = end; after < text.size() && is_space(code_point_at(text, after));) end = after;
    }
    if (taken < begin) pieces.push_back({text.substr(taken, begin - taken), std::nullopt});
    pieces.push_back({text.substr(begin, end - begin), found->token.id});
    taken = end;
  }
  if (taken < text.size()) pieces.push_back({text.substr(taken), std::nullopt});
}

}  // namespace finesweep::worker
