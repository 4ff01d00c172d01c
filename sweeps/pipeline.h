#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "jobs/json.h"
#include "jobs/plan.h"
#include "jobs/settings_table.h"
#include "sweeps/diagnostics.h"
#include "sweeps/values.h"
#include "sweeps/yaml_node.h"

namespace finesweep::sweeps {

// What a sweep file says, checked word by word: every key known, every value of its type and range. What the words
// mean together (which configurations, whether they can run) is the business of expand.h and check.h.

struct StepDeclaration {
  StepKind kind = StepKind::finetune;
  std::string name;  // what its paths and metrics begin with
  Mark mark;
};

struct GivenValue {
  Json value;
  Mark mark;
};

/// The settings of one configuration that the file gives, by path ("finetune.rank"), and which steps are left out.
struct Given {
  std::map<std::string, GivenValue, std::less<>> values;
  std::vector<bool> skipped;  // for each step
};

/// What a dotted path stands for.
struct Target {
  enum class Kind { setting, group, step };
  Kind kind = Kind::setting;
  std::string path;
  Section section = Section::top;
  int step = -1;    // index of the step
  std::string key;  // below the section
  const Setting* setting = nullptr;
};

/// Settings that are laid over the pipeline as written.
struct Overlay {
  Mark mark;
  std::string label;  // empty: none given
  Mark label_mark;
  /// Null takes a setting away.
  std::vector<std::pair<Target, GivenValue>> values;
  /// Groups (`data.fields`) that are replaced as a whole.
  std::vector<std::string> replaced_groups;
  std::vector<std::pair<int, bool>> skips;  // step, whether it is left out

  void apply_to(Given& given) const;
};

struct Axis {
  Mark mark;
  bool labelled = false;
  std::vector<Overlay> values;
};

/// Selects configurations: all conditions must hold.
struct Matcher {
  Mark mark;
  std::optional<std::string> label;
  std::vector<std::pair<Target, Json>> values;
  std::vector<std::pair<int, bool>> skips;
  std::string text;  // for messages: "finetune.method: full"
};

struct GivenText {
  std::string text;
  Mark mark;
};

struct SweepDeclaration {
  std::string name;
  std::vector<StepDeclaration> steps;
  Given base;
  std::vector<Axis> axes;
  std::vector<Overlay> includes;
  std::vector<Matcher> excludes;
  int repeats = 1;
  std::uint64_t seed = 0;
  std::optional<GivenText> select, metric;
  std::optional<Goal> goal;
  std::optional<Matcher> baseline;
  Resources resources;
  /// In order of appearance in axes and includes.
  std::vector<Target> swept;
  /// Paths whose value could not be read, and "pipeline" or "data" where part of that section could not: what
  /// follows from their absence need not be reported too.
  std::set<std::string, std::less<>> broken;
  /// Where sections stand, for messages about what is missing.
  Mark data_mark, pipeline_mark, repeats_mark;

  const StepDeclaration* find_step(std::string_view name) const;
};

/// Reads the tree; `file` gives the sweep its name where it has none. Relative paths in `root` become absolute.
/// What is wrong goes to `diagnostics`, and the rest is read on, so that all is reported together.
SweepDeclaration read_declaration(Node& root, const std::filesystem::path& file, PathResolver& paths,
                                  Diagnostics& diagnostics);

/// The steps of a pipeline alone, without diagnostics: what `--set` needs to find its target.
std::vector<StepDeclaration> step_names(const Node& root);

/// What a path stands for, or the message that says why it stands for nothing.
Result<Target> find_target(std::string_view path, const std::vector<StepDeclaration>& steps);

/// Settings of which only one can be given: setting one takes the other away. Empty: none.
std::string_view alternative_key(std::string_view key);

}  // namespace finesweep::sweeps
