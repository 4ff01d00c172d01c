#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace finesweep::reports {

/// What is wrong with the tags of HTML as we write it, or of XML: each that opens is closed in order, attributes
/// are quoted, text holds no bare '<'. Empty: nothing. Scripts and styles of HTML are passed over.
inline std::string markup_trouble(const std::string& text) {
  static const std::set<std::string> kVoid{"meta", "link", "br", "hr", "img", "!DOCTYPE", "?xml"};
  std::vector<std::string> open;
  std::size_t at = 0;
  while ((at = text.find('<', at)) != std::string::npos) {
    std::size_t end = at + 1;
    const bool closes = end < text.size() && text[end] == '/';
    if (closes) ++end;
    const std::size_t name_begin = end;
    while (end < text.size() && std::string(" \t\n>/").find(text[end]) == std::string::npos) ++end;
    const std::string name = text.substr(name_begin, end - name_begin);
    if (name.empty()) return "a bare < at " + text.substr(at, 40);
    char quote = 0;
    while (end < text.size() && (quote != 0 || text[end] != '>')) {
      if (quote != 0) {
        if (text[end] == quote)
          quote = 0;
        else if (text[end] == '<')
          return "a < in an attribute at " + text.substr(at, 80);
      } else if (text[end] == '"' || text[end] == '\'') {
        quote = text[end];
      } else if (text[end] == '<') {
        return "a < inside a tag at " + text.substr(at, 80);
      }
      ++end;
    }
    if (end == text.size()) return "a tag without end at " + text.substr(at, 40);
    const bool is_empty = text[end - 1] == '/';
    if (closes) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : "<" + open.back() + ">");
      open.pop_back();
    } else if (!is_empty && !kVoid.contains(name)) {
      if (name == "script" || name == "style") {
        const std::size_t closing = text.find("</" + name + ">", end);
        if (closing == std::string::npos) return "<" + name + "> is not closed";
        at = closing + name.size() + 3;
        continue;
      }
      open.push_back(name);
    }
    at = end + 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

}  // namespace finesweep::reports
