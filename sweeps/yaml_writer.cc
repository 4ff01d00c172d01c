#include <algorithm>
#include <cstdio>

#include "sweeps/yaml_reader.h"

namespace finesweep::sweeps {

namespace {

constexpr std::size_t kLineWidth = 100;

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\x%02X", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string key_text(const std::string& key) {
  return is_plain_word(key) ? key : in_quotes(key);
}

/// On one line, or nothing where it would be too long.
std::optional<std::string> flow(const Node& node) {
  std::string text;
  auto append = [&](const std::string& before, const Node& child) {
    const auto inner = flow(child);
    if (!inner) return false;
    text += (text.empty() ? "" : ", ") + before + *inner;
    return text.size() <= kLineWidth;
  };
  switch (node.kind) {
    case Node::Kind::null:
      return "null";
    case Node::Kind::scalar:
      return node.quoted || !is_plain_word(node.text) ? in_quotes(node.text) : node.text;
    case Node::Kind::list:
      for (const Node& item : node.items)
        if (!append("", item)) return std::nullopt;
      return "[" + text + "]";
    case Node::Kind::map:
      for (const Node::Entry& entry : node.entries)
        if (!append(key_text(entry.key) + ": ", entry.value)) return std::nullopt;
      return "{" + text + "}";
  }
  return std::nullopt;
}

bool fits_on_a_line(const Node& node, std::size_t indent) {
  if (node.is_null() || node.is_scalar() || (node.items.empty() && node.entries.empty())) return true;
  auto leaf = [](const Node& child) { return child.is_null() || child.is_scalar() || child.is_list(); };
  const bool shallow = std::all_of(node.items.begin(), node.items.end(), leaf) &&
                       std::all_of(node.entries.begin(), node.entries.end(),
                                   [&](const Node::Entry& entry) { return leaf(entry.value); });
  if (!shallow || indent == 0) return false;
  const auto text = flow(node);
  return text && text->size() + indent <= kLineWidth;
}

void write_block(const Node& node, std::size_t indent, std::string& out) {
  const std::string margin(indent, ' ');
  auto write_child = [&](const std::string& lead, const Node& child) {
    out += margin + lead;
    if (fits_on_a_line(child, indent + 2)) {
      out += ' ' + flow(child).value() + '\n';
    } else {
      out += '\n';
      write_block(child, indent + 2, out);
    }
  };
  for (const Node& item : node.items) write_child("-", item);
  for (const Node::Entry& entry : node.entries) write_child(key_text(entry.key) + ":", entry.value);
}

}  // namespace

std::string write_yaml(const Node& node) {
  std::string out;
  if (node.is_list() || node.is_map())
    write_block(node, 0, out);
  else
    out = flow(node).value() + '\n';
  return out.empty() ? "{}\n" : out;
}

}  // namespace finesweep::sweeps
