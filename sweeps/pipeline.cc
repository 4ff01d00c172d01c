#include "sweeps/pipeline.h"

#include <algorithm>
#include <set>

#include "sweeps/settings_reader.h"
#include "sweeps/sweep_section.h"

namespace finesweep::sweeps {

namespace {

constexpr std::size_t kLongestName = 100;

bool is_step_name(std::string_view name) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && name.size() <= kLongestName && letter(name[0]) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || c == '-' || (c >= '0' && c <= '9'); });
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

/// One entry of the pipeline, taken apart.
struct Entry {
  std::string kind_word;
  Mark mark;
  Node* settings = nullptr;  // null where the entry is a bare word
};

class DeclarationReader {
 public:
  DeclarationReader(Node& root, PathResolver& paths, Diagnostics& diagnostics)
      : root_(root), paths_(paths), diagnostics_(diagnostics), settings_(paths, diagnostics, out_.broken) {}

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
    read_sweep_sections(root_, settings_, out_);
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

  void read_data() {
    if (const Node* node = root_.find("data")) out_.data_mark = node->mark;
    Node* node = settings_.map_section(root_, "data", "train, validation, test, fields, …");
    if (!node) return;
    Overlay overlay;
    settings_.read_map(*node, {Target::Kind::group, "data", Section::data, -1, "", nullptr}, overlay);
    overlay.apply_to(out_.base);
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
      settings_.read_map(*settings,
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

  Node& root_;
  PathResolver& paths_;
  Diagnostics& diagnostics_;
  SweepDeclaration out_;
  SettingsReader settings_;
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
