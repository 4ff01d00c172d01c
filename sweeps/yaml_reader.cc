#include "sweeps/yaml_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

namespace finesweep::sweeps {

namespace {

/// Thrown through yaml-cpp to stop it; the diagnostic has been made.
struct Stop {};

/// Turns byte offsets into lines and columns (in code points).
class Positions {
 public:
  Positions(std::string_view text, int source) : text_(text), source_(source) {
    lines_.push_back(0);
    for (std::size_t i = 0; i < text.size(); ++i)
      if (text[i] == '\n') lines_.push_back(i + 1);
  }

  Mark at(const YAML::Mark& mark) const {
    if (mark.is_null()) return {source_, 1, 1};
    return at(static_cast<std::size_t>(std::max(0, mark.pos)));
  }
  Mark at(std::size_t offset) const {
    offset = std::min(offset, text_.size());
    const auto next = std::upper_bound(lines_.begin(), lines_.end(), offset);
    // Values come in order: count on from the last one, so that a very long line is not counted again and again.
    const std::size_t begin = *(next - 1);
    if (counted_ < begin || counted_ > offset) {
      counted_ = begin;
      column_ = 1;
    }
    column_ += static_cast<int>(std::count_if(
        text_.begin() + static_cast<std::ptrdiff_t>(counted_), text_.begin() + static_cast<std::ptrdiff_t>(offset),
        [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
    counted_ = offset;
    return {source_, static_cast<int>(next - lines_.begin()), column_};
  }

 private:
  std::string_view text_;
  int source_;
  std::vector<std::size_t> lines_;
  mutable std::size_t counted_ = 0;
  mutable int column_ = 1;
};

/// Builds the tree from yaml-cpp's events. The limits hold while the events come, so the parser never recurses
/// deeper and no alias is expanded beyond them.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const Positions& positions, const YamlLimits& limits, Diagnostics& diagnostics)
      : positions_(positions), limits_(limits), diagnostics_(diagnostics) {}

  Node take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    count(1, mark);
    Node node = make(Node::Kind::null, mark);
    remember(anchor, node);
    add(std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) fail(mark, "an alias inside the value that it stands for has no end");
    count(found->second.size, mark);
    if (static_cast<int>(open_.size()) + found->second.depth > limits_.depth) fail_depth(mark);
    if (!open_.empty()) open_.back().deepest = std::max(open_.back().deepest, found->second.depth + 1);
    add(found->second.node);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    count(1, mark);
    check_tag(mark, tag);
    Node node = make(Node::Kind::scalar, mark);
    node.text = value;
    node.quoted = tag == "!";
    remember(anchor, node);
    add(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Node::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Node::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor;
    std::size_t first_count;  // nodes before this one
    int deepest;              // levels below and with this one
    std::optional<Node> key;  // of a map, while its value is awaited
    bool key_is_good;
  };
  struct Anchored {
    Node node;
    std::size_t size;
    int depth;
  };

  [[noreturn]] void fail(const YAML::Mark& mark, std::string message) {
    diagnostics_.error(positions_.at(mark), "", std::move(message));
    throw Stop{};
  }
  [[noreturn]] void fail_depth(const YAML::Mark& mark) {
    fail(mark, "nested more than " + std::to_string(limits_.depth) + " levels deep");
  }

  void count(std::size_t nodes, const YAML::Mark& mark) {
    count_ += nodes;
    if (count_ > limits_.nodes)
      fail(mark,
           "more than " + std::to_string(limits_.nodes) + " values (aliases count as often as they are used)");
  }

  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    diagnostics_.error(positions_.at(mark), "", "tags such as '" + tag + "' are not supported");
  }

  Node make(Node::Kind kind, const YAML::Mark& mark) const {
    Node node;
    node.kind = kind;
    node.mark = positions_.at(mark);
    node.offset = static_cast<std::size_t>(std::max(0, mark.pos));
    return node;
  }

  void open(Node::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    count(1, mark);
    if (static_cast<int>(open_.size()) >= limits_.depth) fail_depth(mark);
    check_tag(mark, tag);
    open_.push_back({make(kind, mark), anchor, count_ - 1, 1, std::nullopt, true});
  }

  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    if (done.anchor)
      anchors_.insert_or_assign(done.anchor, Anchored{done.node, count_ - done.first_count, done.deepest});
    if (!open_.empty()) open_.back().deepest = std::max(open_.back().deepest, done.deepest + 1);
    add(std::move(done.node));
  }

  void remember(YAML::anchor_t anchor, const Node& node) {
    if (anchor) anchors_.insert_or_assign(anchor, Anchored{node, 1, 0});
  }

  void add(Node node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.is_list()) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.key) {
      parent.key_is_good = check_key(parent, node);
      parent.key = std::move(node);
    } else {
      if (parent.key_is_good)
        parent.node.entries.push_back({std::move(parent.key->text), parent.key->mark, std::move(node)});
      parent.key.reset();
    }
  }

  bool check_key(Open& map, const Node& key) {
    if (!key.is_scalar()) {
      diagnostics_.error(key.mark, "", "a key must be a word, got " + describe(key));
      return false;
    }
    if (key.text == "<<" && !key.quoted) {
      diagnostics_.error(key.mark, "", "merge keys (<<) are not supported; write the keys out");
      return false;
    }
    // Large maps are data of attackers; keep the check for repeated keys linear in what a sweep file can hold.
    if (map.node.entries.size() >= 1000) {
      diagnostics_.error(key.mark, "", "a map of more than 1000 keys");
      throw Stop{};
    }
    for (const Node::Entry& entry : map.node.entries) {
      if (entry.key != key.text) continue;
      diagnostics_.error(key.mark, key.text, "key given twice; first at line " + std::to_string(entry.mark.line));
      return false;
    }
    return true;
  }

  const Positions& positions_;
  const YamlLimits& limits_;
  Diagnostics& diagnostics_;
  Node root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, Anchored> anchors_;
  std::size_t count_ = 0;
};

/// Offset of the first byte that is no well-formed UTF-8, or a control character that YAML does not allow.
std::optional<std::size_t> first_bad_byte(std::string_view text) {
  std::size_t i = 0;
  auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  while (i < text.size()) {
    const unsigned c = byte(i);
    std::size_t length = c < 0x80                ? 1
                         : c >= 0xC2 && c < 0xE0 ? 2
                         : (c & 0xF0) == 0xE0    ? 3
                         : c >= 0xF0 && c < 0xF5 ? 4
                                                 : 0;
    bool good = length > 0 && !(c < 0x20 && c != '\n' && c != '\t' && c != '\r') && c != 0x7F;
    for (std::size_t k = 1; good && k < length; ++k) good = (byte(i + k) & 0xC0) == 0x80;
    if (good && length == 3) good = !(c == 0xE0 && byte(i + 1) < 0xA0) && !(c == 0xED && byte(i + 1) >= 0xA0);
    if (good && length == 4) good = !(c == 0xF0 && byte(i + 1) < 0x90) && !(c == 0xF4 && byte(i + 1) >= 0x90);
    // A byte order mark in the middle of the text confuses yaml-cpp.
    if (good && length == 3 && c == 0xEF && byte(i + 1) == 0xBB && byte(i + 2) == 0xBF) good = i == 0;
    if (!good) return i;
    i += length;
  }
  return std::nullopt;
}

/// Tabs in the indentation look right and are not; the parser stumbles over them later.
std::string tab_hint(std::string_view text, int last_line) {
  for (int line = 1; line <= last_line && !text.empty(); ++line) {
    const std::size_t blank = std::min(text.find_first_not_of(" \t"), text.size());
    if (text.substr(0, blank).find('\t') != std::string_view::npos)
      return "; line " + std::to_string(line) + " is indented with a tab, use blanks";
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  return "";
}

bool has_another_document(YAML::Parser& parser, const Positions& positions, const YamlLimits& limits) {
  Diagnostics ignored;
  TreeBuilder second(positions, limits, ignored);
  try {
    return parser.HandleNextDocument(second);
  } catch (const Stop&) {
  } catch (const YAML::Exception&) {
  }
  return true;
}

}  // namespace

bool is_plain_utf8(std::string_view text) {
  return !first_bad_byte(text);
}

std::optional<Node> read_yaml(std::string_view text, int source, Diagnostics& diagnostics,
                              const YamlLimits& limits) {
  if (text.size() > limits.bytes) {
    diagnostics.error(
        {source, 0, 0}, "",
        "larger than " + std::to_string(limits.bytes >> 10) + " KiB, the most that a sweep file may have");
    return std::nullopt;
  }
  const Positions positions(text, source);
  if (const auto bad = first_bad_byte(text)) {
    diagnostics.error(positions.at(*bad), "", "not UTF-8 text, or a control character");
    return std::nullopt;
  }
  const bool bom = text.starts_with("\xEF\xBB\xBF");
  const std::string body(bom ? text.substr(3) : text);
  const Positions body_positions(body, source);
  TreeBuilder builder(body_positions, limits, diagnostics);
  try {
    std::istringstream stream(body);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) return Node::null({source, 1, 1});
    Node root = builder.take_root();
    if (!has_another_document(parser, body_positions, limits)) return root;
    diagnostics.error({source, 1, 1}, "", "more than one YAML document ('---'); one file holds one sweep");
  } catch (const Stop&) {
  } catch (const YAML::Exception& e) {
    const Mark mark = body_positions.at(e.mark);
    diagnostics.error(mark, "", "not valid YAML: " + e.msg + tab_hint(body, mark.line));
  } catch (const std::exception& e) {
    diagnostics.error({source, 0, 0}, "", std::string("not valid YAML: ") + e.what());
  }
  return std::nullopt;
}

}  // namespace finesweep::sweeps
