#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace finesweep::worker {

/// A code point and how many bytes it takes.
struct CodePoint {
  char32_t value = 0;
  std::uint32_t size = 0;
};

/// The code point that begins at `at`. The text must be valid UTF-8 and `at` a boundary before its end.
inline CodePoint code_point_at(const char* at) {
  const auto byte = [&](int i) { return static_cast<char32_t>(static_cast<unsigned char>(at[i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

void append_utf8(std::string& text, char32_t c);
std::u32string decode_utf8(std::string_view text);
bool is_valid_utf8(std::string_view text);
/// U+FFFD for every maximal ill-formed part, as Unicode recommends and Rust's from_utf8_lossy does.
std::string replace_invalid_utf8(std::string_view text);

/// White_Space: what \s matches, and what Rust's char::is_whitespace says.
bool is_white_space(char32_t c);
/// What \w matches in Rust's regular expressions, of Unicode 16.
bool is_word_character(char32_t c);
/// Lower case of Unicode 17, of each code point alone: no final sigma.
std::u32string lower_case(char32_t c);

/// The letters and numbers of Unicode 16 that ICU's \p{L} and \p{N} may lack, for use within brackets.
std::string newer_letters_for_brackets();
std::string newer_numbers_for_brackets();

/// Properties that split text, of the versions of Unicode that the Hugging Face `tokenizers` package uses in each
/// place, whatever the version of ICU. Builds its tables as it meets code points: one thread at a time.
class CharacterClasses {
 public:
  enum Class : std::uint8_t {
    letter = 1,      // \p{L}, of Unicode 16
    number = 2,      // \p{N}, of Unicode 16
    space = 4,       // \s
    numeric = 8,     // Nd, Nl or No, of Unicode 17: Rust's char::is_numeric
    combining = 16,  // a mark (M), of Unicode 9
  };
  CharacterClasses();

  /// The flags of Class that hold.
  std::uint8_t of(char32_t c) const {
    const auto& page = pages_[c >> 8];
    return page ? (*page)[c & 255] : first_of_page(c);
  }
  std::uint8_t of_ascii(char c) const { return ascii_[static_cast<unsigned char>(c)]; }

 private:
  using Page = std::array<std::uint8_t, 256>;
  std::uint8_t first_of_page(char32_t c) const;

  mutable std::array<std::unique_ptr<Page>, 0x1100> pages_;
  Page ascii_{};  // 0 above 0x7F
};

}  // namespace finesweep::worker
