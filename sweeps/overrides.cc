#include "sweeps/overrides.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "sweeps/pipeline.h"
#include "sweeps/yaml_reader.h"

namespace finesweep::sweeps {

namespace {

/// Marks of a value were counted from its own start; `--set` counts from the start of the argument.
void shift(Node& node, int number, int columns) {
  auto moved = [&](Mark mark) { return Mark{number, number, mark.column + (mark.line <= 1 ? columns : 0)}; };
  node.mark = moved(node.mark);
  for (Node& item : node.items) shift(item, number, columns);
  for (Node::Entry& entry : node.entries) {
    entry.mark = moved(entry.mark);
    shift(entry.value, number, columns);
  }
}

std::vector<std::string> split(std::string_view path) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t dot = std::min(path.find('.', begin), path.size());
    parts.emplace_back(path.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return parts;
}

class Override {
 public:
  Override(Node& root, std::string path, Node value, Mark mark, Diagnostics& diagnostics)
      : root_(root), path_(std::move(path)), value_(std::move(value)), mark_(mark), diagnostics_(diagnostics) {}

  void apply() {
    const std::vector<std::string> parts = split(path_);
    if (parts[0] == "name" || parts[0] == "sweep" || parts[0] == "report" || parts[0] == "resources") {
      if (parts[0] != "name" && parts.size() == 1)
        return error("one setting at a time: " + parts[0] + ".KEY=VALUE");
      set_below(root_, parts);
      return;
    }
    const auto steps = step_names(root_);
    const auto target = find_target(path_, steps);
    if (!target) return error(target.error().message);
    if (target->kind == Target::Kind::step) return set_step(*target);
    free_from_sweep(target->path);
    if (const std::string_view other = alternative_key(target->key); !other.empty())
      free_from_sweep(target->path.substr(0, target->path.size() - target->key.size()) + std::string(other));
    if (target->step < 0) {
      set_below(root_, parts);
    } else if (Node* settings = step_settings(target->step)) {
      if (const std::string_view other = alternative_key(target->key); !other.empty()) settings->erase(other);
      set_below(*settings, split(target->key));
    }
  }

 private:
  void error(std::string message) { diagnostics_.error(mark_, path_, std::move(message)); }

  /// Sets the value at a path of maps, which are made where they are missing. A value in the way gives place.
  void set_below(Node& root, const std::vector<std::string>& parts) {
    Node* node = &root;
    for (const std::string& part : parts) {
      if (!node->is_map() && !node->is_null()) *node = Node::null(mark_);
      node = &node->at_or_add(part, mark_);
    }
    *node = value_;
  }

  /// The settings of a step, as a map; a bare word (`- merge`) becomes one.
  Node* step_settings(int step) {
    Node* item = &root_.find("pipeline")->items[static_cast<std::size_t>(step)];
    if (item->is_scalar()) {
      const std::string kind = item->text;
      const Mark mark = item->mark;
      *item = Node::null(mark);
      item->at_or_add(kind, mark);
    }
    Node& settings = item->entries[0].value;
    if (settings.is_map() || settings.is_null()) return &settings;
    return nullptr;  // reported when the pipeline is read
  }

  /// Takes a path, and all below it, out of axes and included configurations.
  void free_from_sweep(const std::string& path) {
    Node* sweep = root_.find("sweep");
    if (!sweep) return;
    for (const char* part : {"axes", "include"}) {
      Node* list = sweep->find(part);
      if (!list || !list->is_list()) continue;
      for (Node& map : list->items) {
        if (!map.is_map()) continue;
        const std::size_t before = map.entries.size();
        std::erase_if(map.entries, [&](const Node::Entry& entry) {
          return entry.key == path || entry.key.starts_with(path + ".");
        });
        if (map.entries.size() == before) continue;
        if (std::string_view(part) == "axes") {
          diagnostics_.warning(mark_, path_, "no longer swept: the override holds for every configuration");
          // Labels spoke of the values that are gone.
          if (map.entries.size() == 1 && map.entries[0].key == "label") map.entries.clear();
        }
      }
      std::erase_if(list->items, [](const Node& map) { return map.is_map() && map.entries.empty(); });
    }
  }

  void set_step(const Target& target) {
    if (!value_.is_scalar() || (value_.text != "skip" && value_.text != "run"))
      return error("expected run or skip, got " + describe(value_) + "; a setting is " + path_ + ".KEY=VALUE");
    Node& sweep = root_.at_or_add("sweep", mark_);
    if (!sweep.is_map()) return;  // reported when the sweep is read
    Node* includes = sweep.find("include");
    // An axis of one value says for every configuration of the axes what the pipeline itself has no word for.
    if (Node* axes = sweep.find("axes"); axes && axes->is_list())
      for (Node& axis : axes->items) axis.erase(path_);
    if (includes && includes->is_list())
      for (Node& include : includes->items) {
        include.erase(path_);
        if (value_.text == "skip") include.at_or_add(path_, mark_) = value_;
      }
    Node& axes = sweep.at_or_add("axes", mark_);
    if (axes.is_null()) axes.kind = Node::Kind::list;
    if (!axes.is_list()) return;
    std::erase_if(axes.items, [](const Node& axis) { return axis.is_map() && axis.entries.empty(); });
    if (value_.text == "run") return;
    Node values = Node::null(mark_);
    values.kind = Node::Kind::list;
    values.items.push_back(value_);
    Node axis = Node::null(mark_);
    axis.at_or_add(path_, mark_) = std::move(values);
    axes.items.push_back(std::move(axis));
  }

  Node& root_;
  std::string path_;
  Node value_;
  Mark mark_;
  Diagnostics& diagnostics_;
};

}  // namespace

void apply_override(Node& root, const std::string& text, int number, Diagnostics& diagnostics) {
  const Mark start{number, number, 1};
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    diagnostics.error(start, "", "expected PATH=VALUE, such as finetune.epochs=1, got '" + text + "'");
    return;
  }
  Diagnostics value_diagnostics;
  auto value = read_yaml(std::string_view(text).substr(equals + 1), number, value_diagnostics);
  for (const Diagnostic& d : value_diagnostics.sorted())
    diagnostics.error({number, number, d.mark.column + static_cast<int>(equals) + 1}, d.path, d.message);
  if (!value) return;
  shift(*value, number, static_cast<int>(equals) + 1);
  if (root.is_map()) Override(root, text.substr(0, equals), std::move(*value), start, diagnostics).apply();
}

}  // namespace finesweep::sweeps
