#include "sweeps/pipeline.h"

#include <algorithm>
#include <set>

namespace finesweep::sweeps {

namespace {

constexpr std::size_t kLongestName = 100;

bool is_step_name(std::string_view name) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && name.size() <= kLongestName && letter(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || c == '-' || (c >= '0' && c <= '9'); });
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

/// Names the run directory.
bool is_sweep_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName && name.front() != '.' &&
         name.find('/') == std::string_view::npos && !has_control_character(name);
}

bool is_reserved(std::string_view name) {
  static const std::set<std::string_view> reserved{"name",   "model",  "task",      "data",  "pipeline",
                                                   "sweep",  "report", "resources", "label", "trial",
                                                   "repeat", "seed",   "state",     "error"};
  return reserved.contains(name);
}

std::vector<std::string> keys_of(Section section) {
  const auto keys = setting_keys(section);
  return {keys.begin(), keys.end()};
}

/// "; known are a, b", where there are few.
std::string known_keys(const std::vector<std::string>& keys) {
  std::vector<std::string> distinct;
  for (const std::string& key : keys)
    if (std::find(distinct.begin(), distinct.end(), key) == distinct.end()) distinct.push_back(key);
  if (distinct.empty() || distinct.size() > 8) return "";
  std::string text = "; known are ";
  for (std::size_t i = 0; i < distinct.size(); ++i) text += (i ? ", " : "") + distinct[i];
  return text;
}

/// "; did you mean …?", or what there is.
std::string key_hint(std::string_view key, const std::vector<std::string>& known) {
  const std::string near = did_you_mean(key, known);
  return near.empty() ? known_keys(known) : near;
}

/// One entry of the pipeline, taken apart.
struct Entry {
  std::string kind_word;
  Mark mark;
  Node* settings = nullptr;  // null where the entry is a bare word
};

class DeclarationReader {
 public:
  DeclarationReader(Node& root, PathResolver& paths, Diagnostics& diagnostics)
      : root_(root), paths_(paths), diagnostics_(diagnostics) {}

  SweepDeclaration read(const std::filesystem::path& file) {
    const std::string stem = file.stem().string();
    out_.name = is_sweep_name(stem) ? stem : "sweep";
    if (!root_.is_map()) {
      diagnostics_.error(
          root_.is_null() ? Mark{} : root_.mark, "",
          "a sweep file is a map with the keys model, task, data, pipeline, …; got " + describe(root_));
      return std::move(out_);
    }
    check_top_keys();
    for (std::string_view key : {"name", "model", "task"}) read_top(key);
    read_data();
    read_pipeline();
    read_sweep();
    read_report();
    read_resources();
    return std::move(out_);
  }

 private:
  void error(Mark mark, std::string path, std::string message) {
    diagnostics_.error(mark, std::move(path), std::move(message));
  }

  void check_top_keys() {
    static const std::vector<std::string> known{"name",     "model", "task",   "data",
                                                "pipeline", "sweep", "report", "resources"};
    for (const Node::Entry& entry : root_.entries)
      if (std::find(known.begin(), known.end(), entry.key) == known.end())
        error(entry.mark, entry.key, "unknown key" + key_hint(entry.key, known));
  }

  void read_top(std::string_view key) {
    const Setting& setting = *find_setting(Section::top, key);
    Node* node = root_.find(key);
    if (!node) {
      if (setting.required) error(Mark{}, std::string(key), "missing; expected " + expectation(setting));
      return;
    }
    const auto value = read_value(*node, setting, std::string(key), paths_, diagnostics_);
    if (!value || value->is_null()) return;
    if (key != "name") {
      out_.base.values[std::string(key)] = {*value, node->mark};
      return;
    }
    const std::string& name = value->get_ref<const std::string&>();
    if (!is_sweep_name(name))
      error(node->mark, "name",
            "names the run directory: at most 100 bytes, no '/', no control character, no dot at its start");
    else
      out_.name = name;
  }

  /// A section of the file that is a map of settings alone, or of settings and parts with their own grammar.
  Node* map_section(std::string_view key, std::string_view expected) {
    Node* node = root_.find(key);
    if (!node || node->is_null()) return nullptr;
    if (node->is_map()) return node;
    error(node->mark, std::string(key), "expected a map of " + std::string(expected) + ", got " + describe(*node));
    return nullptr;
  }

  void read_data() {
    if (const Node* node = root_.find("data")) out_.data_mark = node->mark;
    Node* node = map_section("data", "train, validation, test, fields, …");
    if (!node) return;
    Overlay overlay;
    read_settings(*node, {Target::Kind::group, "data", Section::data, -1, "", nullptr}, overlay);
    overlay.apply_to(out_.base);
  }

  void unknown_key(Mark mark, const std::string& path, std::string_view key, Section section, const Target& group) {
    std::vector<std::string> candidates;
    const std::string prefix = group.key.empty() ? "" : group.key + ".";
    for (const std::string& known : keys_of(section)) {
      if (!known.starts_with(prefix)) continue;
      const std::string rest = known.substr(prefix.size());
      candidates.push_back(rest.substr(0, rest.find('.')));
    }
    std::string hint = did_you_mean(key, candidates);
    // A key of another kind of step is a likelier slip than a typing error.
    if (hint.empty() && group.step >= 0) {
      for (StepKind kind : {StepKind::finetune, StepKind::evaluate, StepKind::benchmark, StepKind::quantize,
                            StepKind::prune, StepKind::distill})
        if (find_setting(section_of(kind), key)) {
          hint = "; it is a setting of " + std::string(step_kind_name(kind));
          break;
        }
    }
    if (hint.empty()) hint = known_keys(candidates);
    error(mark, path, "unknown key" + hint);
    out_.broken.insert(group.path.substr(0, group.path.find('.')));
  }

  /// Reads a map of settings below `group` into an overlay.
  void read_settings(Node& node, const Target& group, Overlay& overlay) {
    for (Node::Entry& entry : node.entries) {
      if (group.step >= 0 && group.key.empty() && entry.key == "name") continue;
      Target target = group;
      target.path = group.path + "." + entry.key;
      target.key = group.key.empty() ? entry.key : group.key + "." + entry.key;
      target.setting = find_setting(group.section, target.key);
      if (!target.setting && !is_setting_group(group.section, target.key)) {
        unknown_key(entry.mark, target.path, entry.key, group.section, group);
        continue;
      }
      target.kind = target.setting ? Target::Kind::setting : Target::Kind::group;
      read_target(entry.value, target, overlay);
    }
    if (group.key.empty())
      for (const Node::Entry& entry : node.entries)
        if (const std::string_view other = alternative_key(entry.key); entry.key == "steps" && node.find(other))
          error(entry.mark, group.path + "." + entry.key, "give either epochs or steps, not both");
  }

  /// Reads the value of one target: a setting, or a map of settings.
  void read_target(Node& node, const Target& target, Overlay& overlay) {
    if (node.is_map() && is_setting_group(target.section, target.key)) {
      overlay.replaced_groups.push_back(target.path);
      read_settings(node, target, overlay);
      return;
    }
    if (!target.setting) {
      if (node.is_null()) {
        overlay.replaced_groups.push_back(target.path);
        return;
      }
      error(node.mark, target.path, "expected a map, got " + describe(node));
      return;
    }
    if (const auto value = read_value(node, *target.setting, target.path, paths_, diagnostics_))
      overlay.values.push_back({target, {*value, node.mark}});
    else
      out_.broken.insert(target.path);
  }

  std::optional<Entry> read_entry(Node& node) {
    Entry entry;
    entry.mark = node.mark;
    if (node.is_scalar()) {
      entry.kind_word = node.text;
    } else if (node.is_map() && node.entries.size() == 1) {
      entry.kind_word = node.entries[0].key;
      entry.mark = node.entries[0].mark;
      entry.settings = &node.entries[0].value;
    } else if (node.is_map() && node.entries.size() > 1 && parse_step_kind(node.entries[0].key) &&
               node.entries[0].value.is_null()) {
      error(node.entries[1].mark, "pipeline", "indent the settings of '" + node.entries[0].key + "' below it");
      return std::nullopt;
    } else {
      error(node.mark, "pipeline",
            "expected one step for each entry, such as 'finetune: {…}', got " + describe(node));
      return std::nullopt;
    }
    return entry;
  }

  void read_pipeline() {
    Node* pipeline = root_.find("pipeline");
    if (pipeline) out_.pipeline_mark = pipeline->mark;
    if (!pipeline || !pipeline->is_list() || pipeline->items.empty()) {
      error(
          pipeline ? pipeline->mark : Mark{}, "pipeline",
          pipeline ? "expected a list of steps, got " + describe(*pipeline) : "missing; expected a list of steps");
      return;
    }
    std::vector<Entry> entries;
    for (Node& item : pipeline->items) {
      const auto entry = read_entry(item);
      if (!entry) {
        out_.broken.insert("pipeline");
        continue;
      }
      const auto kind = parse_step_kind(entry->kind_word);
      if (!kind) {
        static const std::vector<std::string> kinds{"distill", "finetune", "prune",    "quantize",
                                                    "merge",   "evaluate", "benchmark"};
        error(entry->mark, "pipeline",
              "unknown step '" + entry->kind_word + "'" + did_you_mean(entry->kind_word, kinds));
        out_.broken.insert("pipeline");
        continue;
      }
      out_.steps.push_back({*kind, read_step_name(*entry, *kind), entry->mark});
      entries.push_back(*entry);
    }
    check_step_names();
    out_.base.skipped.assign(out_.steps.size(), false);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      Node* settings = entries[i].settings;
      if (!settings || settings->is_null()) continue;
      const StepDeclaration& step = out_.steps[i];
      if (!settings->is_map()) {
        error(settings->mark, step.name, "expected a map of settings, got " + describe(*settings));
        out_.broken.insert("pipeline");
        continue;
      }
      Overlay overlay;
      read_settings(*settings,
                    {Target::Kind::group, step.name, section_of(step.kind), static_cast<int>(i), "", nullptr},
                    overlay);
      overlay.apply_to(out_.base);
    }
  }

  std::string read_step_name(const Entry& entry, StepKind kind) {
    const std::string fallback(step_kind_name(kind));
    Node* name = entry.settings && entry.settings->is_map() ? entry.settings->find("name") : nullptr;
    if (!name) return fallback;
    if (!name->is_scalar() || !is_step_name(name->text)) {
      error(name->mark, fallback + ".name",
            "expected letters, digits, '_' and '-', beginning with a letter, got " + describe(*name));
      return fallback;
    }
    const auto other_kind = parse_step_kind(name->text);
    if (is_reserved(name->text) || (other_kind && *other_kind != kind)) {
      error(name->mark, fallback + ".name", "'" + name->text + "' means something else; choose another name");
      return fallback;
    }
    return name->text;
  }

  void check_step_names() {
    for (std::size_t i = 0; i < out_.steps.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (out_.steps[i].name != out_.steps[j].name) continue;
        const bool unnamed = out_.steps[i].name == step_kind_name(out_.steps[i].kind);
        error(out_.steps[i].mark, out_.steps[i].name,
              unnamed ? "stands twice in the pipeline; give each a 'name:'"
                      : "name given twice; first at line " + std::to_string(out_.steps[j].mark.line));
        break;
      }
    }
  }

  void read_sweep() {
    Node* node = map_section("sweep", "axes, include, exclude, repeats, seed");
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
      } else if (const auto value = read_plain_setting(Section::sweep, entry, "sweep")) {
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

  /// A setting of sweep, report or resources; nothing after an error or where it is left empty.
  std::optional<Json> read_plain_setting(Section section, Node::Entry& entry, const std::string& head) {
    const std::string path = head + "." + entry.key;
    const Setting* setting = find_setting(section, entry.key);
    if (!setting) {
      error(entry.mark, path, "unknown key" + key_hint(entry.key, keys_of(section)));
      return std::nullopt;
    }
    auto value = read_value(entry.value, *setting, path, paths_, diagnostics_);
    if (value && value->is_null()) return std::nullopt;
    return value;
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
      read_target(node, target, overlay);
    }
  }

  std::string read_label(const Node& node) {
    if (node.is_scalar() && !node.text.empty() && node.text.size() <= 2 * kLongestName &&
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
    Node* node = map_section("report", "select, metric, goal, baseline");
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
      const auto value = read_plain_setting(Section::report, entry, "report");
      if (!value) continue;
      if (entry.key == "goal") out_.goal = *value == "maximize" ? Goal::maximize : Goal::minimize;
      if (entry.key == "select") out_.select = GivenText{value->get<std::string>(), entry.value.mark};
      if (entry.key == "metric") out_.metric = GivenText{value->get<std::string>(), entry.value.mark};
    }
  }

  void read_resources() {
    Node* node = map_section("resources", "gpus, pack, retries, threads");
    if (!node) return;
    for (Node::Entry& entry : node->entries) {
      const auto value = read_plain_setting(Section::resources, entry, "resources");
      if (!value) continue;
      if (entry.key == "gpus") out_.resources.gpus = value->get<int>();
      if (entry.key == "retries") out_.resources.retries = value->get<int>();
      if (entry.key == "threads") out_.resources.threads = value->get<int>();
      if (entry.key == "pack") out_.resources.pack = value->is_string() ? value->get<std::string>() : value->dump();
    }
  }

  Node& root_;
  PathResolver& paths_;
  Diagnostics& diagnostics_;
  SweepDeclaration out_;
  std::vector<std::pair<std::string, Mark>> axis_paths_;
};

}  // namespace

SweepDeclaration read_declaration(Node& root, const std::filesystem::path& file, PathResolver& paths,
                                  Diagnostics& diagnostics) {
  return DeclarationReader(root, paths, diagnostics).read(file);
}

std::vector<StepDeclaration> step_names(const Node& root) {
  std::vector<StepDeclaration> steps;
  const Node* pipeline = root.find("pipeline");
  if (!pipeline || !pipeline->is_list()) return steps;
  for (const Node& item : pipeline->items) {
    const bool is_map = item.is_map() && item.entries.size() == 1;
    const std::string word = is_map ? item.entries[0].key : item.text;
    const auto kind = parse_step_kind(word);
    const Node* name = kind && is_map ? item.entries[0].value.find("name") : nullptr;
    // An entry that is no step keeps its place, so that indices are those of the list.
    steps.push_back({kind.value_or(StepKind::merge),
                     !kind                       ? ""
                     : name && name->is_scalar() ? name->text
                                                 : word,
                     item.mark});
  }
  return steps;
}

}  // namespace finesweep::sweeps
