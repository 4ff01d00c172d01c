#include "reports/text.h"

#include <algorithm>

#include "jobs/json.h"

namespace finesweep::reports {

std::size_t display_width(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::ranges::count_if(utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string shortened(std::string_view utf8, std::size_t width) {
  if (display_width(utf8) <= width) return std::string(utf8);
  if (width == 0) return "";
  std::size_t end = 0, columns = 0;
  while (end < utf8.size()) {
    const bool begins = (static_cast<unsigned char>(utf8[end]) & 0xC0) != 0x80;
    if (begins && ++columns == width) break;
    ++end;
  }
  return std::string(utf8.substr(0, end)) + "…";
}

std::vector<std::string> wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines{""};
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::string& line = lines.back();
    if (line.empty()) {
      line = word;
    } else if (display_width(line) + 1 + display_width(word) <= width) {
      line += " " + word;
    } else {
      lines.push_back(word);
    }
    begin = end + 1;
  }
  for (std::string& line : lines) line = shortened(line, width);
  return lines;
}

std::string valid_utf8(const std::string& text) {
  const std::string dumped = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  std::string valid = Json::parse(dumped).get<std::string>();
  for (const char* noncharacter : {"\xEF\xBF\xBE", "\xEF\xBF\xBF"})  // U+FFFE, U+FFFF
    for (std::size_t at = valid.find(noncharacter); at != std::string::npos; at = valid.find(noncharacter, at))
      valid.replace(at, 3, "\xEF\xBF\xBD");
  return valid;
}

std::string on_one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  return text;
}

std::string markdown_escaped(const std::string& text) {
  std::string escaped;
  for (const char c : on_one_line(text)) {
    const bool is_markup = std::string_view("\\|*<`").find(c) != std::string_view::npos;
    const bool makes_link = c == '(' && escaped.ends_with(']');
    if (is_markup || makes_link) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace finesweep::reports
