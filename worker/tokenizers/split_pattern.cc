#include "worker/tokenizers/split_pattern.h"

#include <cstring>

namespace finesweep::worker {
namespace {

using Classes = CharacterClasses;
constexpr std::uint8_t visible = Classes::letter | Classes::number | Classes::space;

struct Found {
  std::uint8_t classes;  // letter, number, space; 0: anything else
  std::uint32_t size;
};

Found look(const Classes& classes, const char* at) {
  if (static_cast<signed char>(*at) >= 0) return {static_cast<std::uint8_t>(classes.of_ascii(*at) & visible), 1};
  const CodePoint c = code_point_at(at);
  return {static_cast<std::uint8_t>(classes.of(c.value) & visible), c.size};
}

/// Past the characters that are of `wanted` (0: of none), at most `limit` of them.
const char* skip(const Classes& classes, const char* at, const char* end, std::uint8_t wanted,
                 std::size_t limit = ~std::size_t{0}) {
  for (; at < end && limit > 0; --limit) {
    const Found found = look(classes, at);
    if (found.classes != wanted) break;
    at += found.size;
  }
  return at;
}

/// \s+(?!\S)|\s+ : the last space of several is left to what follows them.
const char* skip_spaces(const Classes& classes, const char* begin, const char* end) {
  const char* last = begin;
  const char* at = begin;
  while (at < end) {
    const Found found = look(classes, at);
    if (found.classes != Classes::space) return last > begin ? last : at;
    last = at;
    at += found.size;
  }
  return end;
}

/// The length of 's, 't, 're, 've, 'm, 'll or 'd; 0: none. `fold`: bits that are set before comparing.
std::size_t contraction(const char* at, const char* end, char fold) {
  if (*at != '\'' || end - at < 2) return 0;
  const auto lower = [&](int i) { return static_cast<char>(at[i] | fold); };
  const char first = lower(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  // The long s folds to s where case does not count.
  if (fold != 0 && end - at >= 3 && std::memcmp(at + 1, "\xC5\xBF", 2) == 0) return 3;
  if (end - at < 3) return 0;
  const char second = lower(2);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
    return 3;
  return 0;
}

}  // namespace

SplitPattern SplitPattern::gpt4(std::size_t digits) {
  SplitPattern pattern;
  pattern.is_gpt4_ = true;
  pattern.digits_ = digits;
  return pattern;
}

std::optional<SplitPattern> SplitPattern::known(std::string_view regular_expression) {
  if (regular_expression == R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)") {
    return gpt2();
  }
  constexpr std::string_view before = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})",
                             after = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (!regular_expression.starts_with(before) || !regular_expression.ends_with(after) ||
      regular_expression.size() < before.size() + after.size()) {
    return std::nullopt;
  }
  regular_expression.remove_prefix(before.size());
  regular_expression.remove_suffix(after.size());
  if (regular_expression.empty()) return gpt4(1);
  if (regular_expression == "{1,3}") return gpt4(3);
  return std::nullopt;
}

const char* SplitPattern::next_gpt2(const Classes& classes, const char* begin, const char* end) const {
  if (const std::size_t size = contraction(begin, end, 0)) return begin + size;
  const char* at = *begin == ' ' && begin + 1 < end ? begin + 1 : begin;
  const Found found = look(classes, at);
  if (found.classes == Classes::space) return skip_spaces(classes, begin, end);
  return skip(classes, at + found.size, end, found.classes);
}

const char* SplitPattern::next_gpt4(const Classes& classes, const char* begin, const char* end) const {
  if (const std::size_t size = contraction(begin, end, 0x20)) return begin + size;
  const Found first = look(classes, begin);
  const char* second = begin + first.size;
  if (first.classes == Classes::letter) return skip(classes, second, end, Classes::letter);
  if (first.classes == Classes::number) return skip(classes, second, end, Classes::number, digits_ - 1);
  if (*begin != '\r' && *begin != '\n' && second < end) {
    const char* letters = skip(classes, second, end, Classes::letter);
    if (letters > second) return letters;
  }
  const char* symbols = *begin == ' ' ? second : begin;
  const char* at = skip(classes, symbols, end, 0);
  if (at > symbols) {
    while (at < end && (*at == '\r' || *at == '\n')) ++at;
    return at;
  }
  // Here stands a space. Up to the last line end among the spaces, where there is one.
  const char* spaces = skip(classes, begin, end, Classes::space);
  for (const char* last = spaces; last > begin; --last) {
    if (last[-1] == '\r' || last[-1] == '\n') return last;
  }
  return skip_spaces(classes, begin, end);
}

}  // namespace finesweep::worker
