#include "sweeps/yaml_node.h"

#include <algorithm>

namespace finesweep::sweeps {

Node Node::null(Mark mark) {
  Node node;
  node.mark = mark;
  return node;
}

Node Node::scalar(std::string text, Mark mark, bool quoted) {
  Node node;
  node.kind = Kind::scalar;
  node.text = std::move(text);
  node.mark = mark;
  node.quoted = quoted;
  return node;
}

const Node* Node::find(std::string_view key) const {
  for (const Entry& entry : entries)
    if (entry.key == key) return &entry.value;
  return nullptr;
}

Node* Node::find(std::string_view key) {
  return const_cast<Node*>(std::as_const(*this).find(key));
}

Node& Node::at_or_add(std::string_view key, Mark mark) {
  if (kind == Kind::null) kind = Kind::map;
  if (Node* found = find(key)) return *found;
  entries.push_back({std::string(key), mark, Node{}});
  entries.back().value.mark = mark;
  return entries.back().value;
}

void Node::erase(std::string_view key) {
  std::erase_if(entries, [&](const Entry& entry) { return entry.key == key; });
}

bool is_plain_word(std::string_view text) {
  auto alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  if (text.empty() || text == "null" || text == "Null" || text == "NULL") return false;
  const char first = text[0], second = text.size() > 1 ? text[1] : ' ';
  const bool good_start =
      alphanumeric(first) || first == '/' || first == '_' ||
      ((first == '-' || first == '+' || first == '.') && (alphanumeric(second) || second == '/' || second == '.'));
  return good_start && text != "..." && text.back() != ' ' && std::all_of(text.begin(), text.end(), [&](char c) {
           return alphanumeric(c) || std::string_view("_./+- ").find(c) != std::string_view::npos;
         });
}

bool same_value(const Node& a, const Node& b) {
  if (a.kind != b.kind || a.items.size() != b.items.size() || a.entries.size() != b.entries.size()) return false;
  if (a.is_scalar() && (a.text != b.text || (a.quoted != b.quoted && is_plain_word(a.text)))) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i)
    if (!same_value(a.items[i], b.items[i])) return false;
  for (std::size_t i = 0; i < a.entries.size(); ++i)
    if (a.entries[i].key != b.entries[i].key || !same_value(a.entries[i].value, b.entries[i].value)) return false;
  return true;
}

std::string describe(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::list:
      return node.items.empty() ? "an empty list" : "a list";
    case Node::Kind::map:
      return node.entries.empty() ? "an empty map" : "a map";
    case Node::Kind::scalar:
      break;
  }
  std::string text;
  for (char c : node.text.substr(0, 60)) text += c == '\n' ? ' ' : c;
  // Not in the middle of a character.
  while (!text.empty() && node.text.size() > 60 &&
         (static_cast<unsigned char>(node.text[text.size()]) & 0xC0) == 0x80)
    text.pop_back();
  return "'" + text + (node.text.size() > 60 ? "…'" : "'");
}

}  // namespace finesweep::sweeps
