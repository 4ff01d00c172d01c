#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace finesweep::reports {

/// Code points: the columns that text takes on a terminal, but for wide and combining characters.
std::size_t display_width(std::string_view utf8);

/// At most `width` columns, the last of them "…" where something was cut.
std::string shortened(std::string_view utf8, std::size_t width);

/// Broken at spaces into lines of at most `width` columns; a longer word is shortened.
std::vector<std::string> wrapped(const std::string& text, std::size_t width);

/// What is no UTF-8, and the code points that XML has no place for, become U+FFFD.
std::string valid_utf8(const std::string& text);

/// Line breaks and control characters (a label or an error may hold escape sequences) become spaces.
std::string on_one_line(std::string text);

/// As text in a cell of a Markdown table.
std::string markdown_escaped(const std::string& text);

}  // namespace finesweep::reports
