#include "worker/tokenizers/unicode.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <span>

namespace finesweep::worker {
namespace {

struct Range {
  char32_t first, last;
};

// Assigned after Unicode 15.0, the oldest that an ICU of ours knows.
constexpr Range letters_of_16[] = {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
                                   {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
                                   {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
                                   {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
                                   {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
                                   {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr Range numbers_of_16[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
                                   {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA}};
constexpr Range words_of_16[] = {{0x897, 0x897},     {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},
                                 {0x105C0, 0x105F3}, {0x10D40, 0x10D65}, {0x10D69, 0x10D6D}, {0x10D6F, 0x10D85},
                                 {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFC}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
                                 {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113C0}, {0x113C2, 0x113C2},
                                 {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D3}, {0x113E1, 0x113E2},
                                 {0x116D0, 0x116E3}, {0x11BC0, 0x11BE0}, {0x11BF0, 0x11BF9}, {0x11F5A, 0x11F5A},
                                 {0x13460, 0x143FA}, {0x16100, 0x16139}, {0x16D40, 0x16D6C}, {0x16D70, 0x16D79},
                                 {0x18CFF, 0x18CFF}, {0x1CCF0, 0x1CCF9}, {0x1E5D0, 0x1E5FA}, {0x2EBF0, 0x2EE5D}};
constexpr Range numbers_of_17[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}};

bool contains(std::span<const Range> ranges, char32_t c) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](Range range) { return range.first <= c && c <= range.last; });
}

std::string for_brackets(std::span<const Range> ranges) {
  std::string text;
  for (const Range& range : ranges) {
    char one[32];
    std::snprintf(one, sizeof one, "\\x{%X}-\\x{%X}", static_cast<unsigned>(range.first),
                  static_cast<unsigned>(range.last));
    text += one;
  }
  return text;
}

std::uint8_t look_up(char32_t c) {
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  const std::uint32_t category = age[0] <= 15 ? U_GET_GC_MASK(static_cast<UChar32>(c)) : 0;
  std::uint8_t found = 0;
  if ((category & U_GC_L_MASK) || contains(letters_of_16, c)) found |= CharacterClasses::letter;
  if ((category & U_GC_N_MASK) || contains(numbers_of_16, c)) {
    found |= CharacterClasses::number | CharacterClasses::numeric;
  }
  if (contains(numbers_of_17, c)) found |= CharacterClasses::numeric;
  if (is_white_space(c)) found |= CharacterClasses::space;
  // Three characters have become marks or ceased to be since Unicode 9.
  const bool is_mark = c == 0x1CF2 || c == 0x1CF3 || ((category & U_GC_M_MASK) && c != 0x111C9);
  if (age[0] <= 9 && is_mark) found |= CharacterClasses::combining;
  return found;
}

}  // namespace

void append_utf8(std::string& text, char32_t c) {
  char bytes[4];
  std::size_t count = 0;
  U8_APPEND_UNSAFE(bytes, count, c);
  text.append(bytes, count);
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string result;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT_OR_FFFD(bytes, i, text.size(), c);
    result += static_cast<char32_t>(c);
  }
  return result;
}

bool is_valid_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  const std::size_t size = text.size();
  for (std::size_t i = 0; i < size;) {
    std::uint64_t eight;
    while (i + 8 <= size && (std::memcpy(&eight, bytes + i, 8), (eight & 0x8080808080808080u) == 0)) i += 8;
    if (i == size) break;
    UChar32 c;
    U8_NEXT(bytes, i, size, c);
    if (c < 0) return false;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT_OR_FFFD(bytes, i, text.size(), c);
    append_utf8(result, static_cast<char32_t>(c));
  }
  return result;
}

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word_character(char32_t c) {
  if (contains(words_of_16, c)) return true;
  UVersionInfo age;
  const auto point = static_cast<UChar32>(c);
  u_charAge(point, age);
  return age[0] <= 15 &&
         (u_hasBinaryProperty(point, UCHAR_ALPHABETIC) || u_hasBinaryProperty(point, UCHAR_JOIN_CONTROL) ||
          (U_GET_GC_MASK(point) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0);
}

std::string newer_letters_for_brackets() {
  return for_brackets(letters_of_16);
}
std::string newer_numbers_for_brackets() {
  return for_brackets(numbers_of_16);
}

std::u32string lower_case(char32_t c) {
  const auto one = [](char32_t to) { return std::u32string(1, to); };
  if (c == 0x130) return U"i\u0307";
  // What Unicode 16 and 17 added, so that an older ICU gives the same.
  if (c == 0x1C89 || c == 0xA7CC || c == 0xA7CE || c == 0xA7D2 || c == 0xA7D4 || c == 0xA7DA) return one(c + 1);
  if (c == 0xA7CB) return one(0x264);
  if (c == 0xA7DC) return one(0x19B);
  if (c >= 0x10D50 && c <= 0x10D65) return one(c + 0x20);
  if (c >= 0x16EA0 && c <= 0x16EB8) return one(c + 0x1B);
  return one(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
}

CharacterClasses::CharacterClasses() {
  for (char32_t c = 0; c < 128; ++c) ascii_[c] = of(c);
}

std::uint8_t CharacterClasses::first_of_page(char32_t c) const {
  auto& page = pages_[c >> 8];
  page = std::make_unique<Page>();
  for (char32_t i = 0; i < 256; ++i) (*page)[i] = look_up((c & ~char32_t{255}) | i);
  return (*page)[c & 255];
}

}  // namespace finesweep::worker
