#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sweeps/diagnostics.h"

namespace finesweep::sweeps {

/// A YAML value with its position. Aliases have been expanded: a node owns all below it.
struct Node {
  enum class Kind { null, scalar, list, map };
  struct Entry;

  Kind kind = Kind::null;
  Mark mark;
  /// Offset of the value in the text of its source, in bytes; for rewriting paths in place.
  std::size_t offset = 0;
  std::string text;     // of a scalar
  bool quoted = false;  // a quoted or block scalar: text, whatever it looks like
  std::vector<Node> items;
  std::vector<Entry> entries;  // of a map, in file order; keys are unique scalars

  static Node null(Mark mark);
  static Node scalar(std::string text, Mark mark, bool quoted = false);

  bool is_null() const { return kind == Kind::null; }
  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_list() const { return kind == Kind::list; }
  bool is_map() const { return kind == Kind::map; }

  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// The value of `key`, added as null at the end where it is missing. A null node becomes a map.
  Node& at_or_add(std::string_view key, Mark mark);
  void erase(std::string_view key);
};

struct Node::Entry {
  std::string key;
  Mark mark;  // of the key
  Node value;
};

/// Needs no quotes anywhere in a YAML text (and only such text can look like a number or a boolean).
bool is_plain_word(std::string_view text);

/// The same values in the same order, wherever they stand.
bool same_value(const Node& a, const Node& b);

/// "a list", "a map", "'lora'", "nothing": completes "…, got".
std::string describe(const Node& node);

}  // namespace finesweep::sweeps
