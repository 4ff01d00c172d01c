#include "slurm/quoting.h"

#include <algorithm>
#include <cstdio>

namespace finesweep::slurm {

namespace {

constexpr std::size_t kLongestJobName = 80;

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7F;
}

/// $'…': with every control character as an escape of exactly three octal digits.
std::string ansi_word(std::string_view text) {
  std::string word = "$'";
  for (const char c : text) {
    if (is_control(c)) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\%03o", static_cast<unsigned>(static_cast<unsigned char>(c)));
      word += escape;
    } else {
      if (c == '\'' || c == '\\') word += '\\';
      word += c;
    }
  }
  return word + "'";
}

}  // namespace

std::string shell_word(std::string_view text) {
  if (std::any_of(text.begin(), text.end(), is_control)) return ansi_word(text);
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'')
      word += "'\\''";
    else
      word += c;
  }
  return word + "'";
}

std::string job_name_of(std::string_view text) {
  std::string name;
  for (const char c : text.substr(0, kLongestJobName)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                       c == '-' || c == '_';
    if (plain)
      name += c;
    else if (name.empty() || name.back() != '-')
      name += '-';
  }
  return name;
}

}  // namespace finesweep::slurm
