#include "sweeps/sweep_section.h"

#include <algorithm>

namespace finesweep::sweeps {

namespace {

constexpr std::size_t kLongestLabel = 200;

class SweepSectionReader {
 public:
  SweepSectionReader(Node& root, SettingsReader& settings, SweepDeclaration& declaration)
      : root_(root), settings_(settings), out_(declaration) {}

  void read() {
    read_sweep();
    read_report();
    read_resources();
  }

 private:
  void error(Mark mark, std::string path, std::string message) {
    settings_.error(mark, std::move(path), std::move(message));
  }

  void read_sweep() {
    Node* node = settings_.map_section(root_, "sweep", "axes, include, exclude, repeats, seed");
    if (!node) return;
    for (Node::Entry& entry : node->entries) {
      if (entry.key == "axes") {
        for_each(entry, "axes", [this](Node& axis) { read_axis(axis); });
      } else if (entry.key == "include") {
        for_each(entry, "include", [this](Node& include) { read_include(include); });
      } else if (entry.key == "exclude") {
        for_each(entry, "exclude", [this](Node& exclude) {
          if (auto matcher = read_matcher(exclude, "sweep.exclude")) out_.excludes.push_back(std::move(*matcher));
        });
      } else if (const auto value = settings_.read_plain(Section::sweep, entry, "sweep")) {
        if (entry.key == "repeats") {
          out_.repeats = value->get<int>();
          out_.repeats_mark = entry.value.mark;
        }
        if (entry.key == "seed") out_.seed = value->get<std::uint64_t>();
      }
    }
  }

  template <typename Read>
  void for_each(Node::Entry& entry, const std::string& key, Read read) {
    if (entry.value.is_null()) return;
    if (!entry.value.is_list()) {
      error(entry.value.mark, "sweep." + key, "expected a list of maps, got " + describe(entry.value));
      return;
    }
    for (Node& item : entry.value.items) {
      if (item.is_map() && !item.entries.empty())
        read(item);
      else
        error(item.mark, "sweep." + key, "expected a map of paths to values, got " + describe(item));
    }
  }

  void note_swept(const Target& target) {
    const bool known = std::any_of(out_.swept.begin(), out_.swept.end(),
                                   [&](const Target& other) { return other.path == target.path; });
    if (!known) out_.swept.push_back(target);
  }

  std::optional<Target> target_of(const Node::Entry& entry, const std::string& where) {
    auto target = find_target(entry.key, out_.steps);
    if (target) return *target;
    error(entry.mark, where, entry.key + ": " + target.error().message);
    return std::nullopt;
  }

  /// Reads `run` or `skip`.
  std::optional<bool> read_skip(const Node& node, const std::string& path) {
    if (node.is_scalar() && node.text == "skip") return true;
    if (node.is_scalar() && node.text == "run") return false;
    error(node.mark, path,
          node.is_map() ? "expected run or skip; set one setting at a time: " + path + ".KEY: VALUE"
                        : "expected run or skip, got " + describe(node));
    return std::nullopt;
  }

  void read_into(Overlay& overlay, const Target& target, Node& node) {
    if (target.kind == Target::Kind::step) {
      if (const auto skip = read_skip(node, target.path)) overlay.skips.push_back({target.step, *skip});
    } else {
      settings_.read_target(node, target, overlay);
    }
  }

  std::string read_label(const Node& node) {
    if (node.is_scalar() && !node.text.empty() && node.text.size() <= kLongestLabel &&
        !has_control_character(node.text))
      return node.text;
    error(node.mark, "label", "expected one line of text, got " + describe(node));
    return "";
  }

  void read_axis(Node& node) {
    Axis axis;
    axis.mark = node.mark;
    const Node::Entry* first = nullptr;
    for (Node::Entry& entry : node.entries) {
      const bool is_label = entry.key == "label";
      std::optional<Target> target;
      if (!is_label && !(target = target_of(entry, "sweep.axes"))) continue;
      if (!entry.value.is_list() || entry.value.items.empty()) {
        error(entry.value.mark, entry.key, "expected a list of at least one value, got " + describe(entry.value));
        continue;
      }
      if (!first) {
        first = &entry;
        axis.values.resize(entry.value.items.size());
      } else if (entry.value.items.size() != axis.values.size()) {
        error(entry.value.mark, entry.key,
              std::to_string(entry.value.items.size()) + " values, but '" + first->key + "' in the same axis has " +
                  std::to_string(first->value.items.size()) + "; keys of one axis vary together");
        continue;
      }
      if (target) check_new_in_axes(*target, entry.mark);
      if (target) note_swept(*target);
      for (std::size_t i = 0; i < axis.values.size(); ++i) {
        Overlay& overlay = axis.values[i];
        Node& item = entry.value.items[i];
        if (!target || overlay.mark.line == 0) overlay.mark = item.mark;
        if (is_label) {
          overlay.label = read_label(item);
          overlay.label_mark = item.mark;
          axis.labelled = true;
        } else {
          read_into(overlay, *target, item);
        }
      }
    }
    if (first && first->key == "label" && node.entries.size() == 1)
      error(node.mark, "sweep.axes", "an axis needs a path beside its labels");
    if (!axis.values.empty()) out_.axes.push_back(std::move(axis));
  }

  void check_new_in_axes(const Target& target, Mark mark) {
    const std::string head = target.path.substr(0, target.path.size() - target.key.size());
    const std::string other = head + std::string(alternative_key(target.key));
    for (const auto& [path, first] : axis_paths_) {
      if (other != head && path == other) {
        error(mark, target.path, "give either epochs or steps, not both");
        return;
      }
      if (path != target.path && !path.starts_with(target.path + ".") && !target.path.starts_with(path + "."))
        continue;
      if (target.kind == Target::Kind::step || path.find('.') == std::string::npos) {
        if (path != target.path) continue;  // `quantize` and `quantize.format` are different things
      }
      error(mark, target.path, "stands in the axes twice; first at line " + std::to_string(first.line));
      return;
    }
    axis_paths_.push_back({target.path, mark});
  }

  void read_include(Node& node) {
    Overlay overlay;
    overlay.mark = node.mark;
    for (Node::Entry& entry : node.entries) {
      if (entry.key == "label") {
        overlay.label = read_label(entry.value);
        overlay.label_mark = entry.value.mark;
      } else if (const auto target = target_of(entry, "sweep.include")) {
        note_swept(*target);
        read_into(overlay, *target, entry.value);
        const std::string head = target->path.substr(0, target->path.size() - target->key.size());
        if (target->key == "steps" && node.find(head + "epochs"))
          error(entry.mark, target->path, "give either epochs or steps, not both");
      }
    }
    out_.includes.push_back(std::move(overlay));
  }

  std::optional<Matcher> read_matcher(Node& node, const std::string& where) {
    Matcher matcher;
    matcher.mark = node.mark;
    bool good = true;
    for (Node::Entry& entry : node.entries) {
      matcher.text += (matcher.text.empty() ? "" : ", ") + entry.key + ": " +
                      (entry.value.is_scalar() ? entry.value.text : describe(entry.value));
      if (entry.key == "label") {
        matcher.label = read_label(entry.value);
        continue;
      }
      const auto target = target_of(entry, where);
      if (!target) {
        good = false;
        continue;
      }
      Overlay overlay;
      read_into(overlay, *target, entry.value);
      for (auto& [matched, value] : overlay.values) matcher.values.push_back({matched, std::move(value.value)});
      for (const auto& skip : overlay.skips) matcher.skips.push_back(skip);
      good = good && !(overlay.values.empty() && overlay.skips.empty());
    }
    return good ? std::optional<Matcher>(std::move(matcher)) : std::nullopt;
  }

  void read_report() {
    Node* node = settings_.map_section(root_, "report", "select, metric, goal, baseline");
    if (!node) return;
    for (Node::Entry& entry : node->entries) {
      if (entry.key == "baseline") {
        if (entry.value.is_null()) continue;
        if (!entry.value.is_map() || entry.value.entries.empty())
          error(entry.value.mark, "report.baseline",
                "expected a map such as {label: Full fine-tuning}, got " + describe(entry.value));
        else
          out_.baseline = read_matcher(entry.value, "report.baseline");
        continue;
      }
      const auto value = settings_.read_plain(Section::report, entry, "report");
      if (!value) continue;
      if (entry.key == "goal") out_.goal = *value == "maximize" ? Goal::maximize : Goal::minimize;
      if (entry.key == "select") out_.select = GivenText{value->get<std::string>(), entry.value.mark};
      if (entry.key == "metric") out_.metric = GivenText{value->get<std::string>(), entry.value.mark};
    }
  }

  void read_resources() {
    Node* node = settings_.map_section(root_, "resources", "gpus, pack, retries, threads");
    if (!node) return;
    for (Node::Entry& entry : node->entries) {
      const auto value = settings_.read_plain(Section::resources, entry, "resources");
      if (!value) continue;
      if (entry.key == "gpus") out_.resources.gpus = value->get<int>();
      if (entry.key == "retries") out_.resources.retries = value->get<int>();
      if (entry.key == "threads") out_.resources.threads = value->get<int>();
      if (entry.key == "pack") out_.resources.pack = value->is_string() ? value->get<std::string>() : value->dump();
    }
  }

  Node& root_;
  SettingsReader& settings_;
  SweepDeclaration& out_;
  std::vector<std::pair<std::string, Mark>> axis_paths_;
};

}  // namespace

void read_sweep_sections(Node& root, SettingsReader& settings, SweepDeclaration& declaration) {
  SweepSectionReader(root, settings, declaration).read();
}

}  // namespace finesweep::sweeps
