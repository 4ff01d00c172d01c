#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/job.h"
#include "jobs/json.h"
#include "jobs/settings.h"

namespace finesweep {

// The one table of what a sweep file may set. Parsing, defaults, ranges, the hash that names a job,
// `docs/settings.md` and the hints of error messages all read it; a new setting is one row here and one line where
// the engine reads it.

/// Where a key stands: a section of the file, or a kind of step.
enum class Section : std::uint32_t {
  top = 1 << 0,
  data = 1 << 1,
  sweep = 1 << 2,
  report = 1 << 3,
  resources = 1 << 4,
  distill = 1 << 5,
  finetune = 1 << 6,
  prune = 1 << 7,
  quantize = 1 << 8,
  merge = 1 << 9,
  evaluate = 1 << 10,
  benchmark = 1 << 11,
};
using Sections = std::uint32_t;

constexpr Sections operator|(Section a, Section b) {
  return static_cast<Sections>(a) | static_cast<Sections>(b);
}
constexpr Sections operator|(Sections a, Section b) {
  return a | static_cast<Sections>(b);
}
constexpr bool contains(Sections sections, Section one) {
  return (sections & static_cast<Sections>(one)) != 0;
}

std::string_view section_name(Section section);
Section section_of(StepKind kind);

/// What a value looks like. In resolved settings: boolean, integer, double, string, list of strings.
enum class ValueType {
  boolean,
  integer,
  number,
  text,
  path,         // relative to the sweep file, resolved to an absolute path
  choice,       // one of Setting::choices
  text_list,    // a list of strings; one string stands for a list of one
  choice_list,  // likewise, each one of Setting::choices, kept in the order of the table
  integer_or_choice,
  count_or_share,  // an integer counts; a number below 1 is a share
  structure,       // has its own grammar (axes, include, exclude, baseline)
};

/// When a step can use a setting. What it cannot use is dropped before jobs are hashed, and the plan says so.
enum class Use {
  always,
  full,            // method full
  lora,            // methods lora and qlora
  ia3,             // method ia3
  adapter,         // methods lora, qlora and ia3
  qlora,           // method qlora
  classification,  // task classification
  prompted,        // a decoder-only model on source-target data
  translated,      // an encoder-decoder model, task seq2seq
  plain_text,      // task causal_lm on plain text
  generation,      // an evaluation whose metrics need generated text
  sampling,        // the same, with do_sample
  nf4,             // format nf4
  generate_mode,   // a benchmark of generation
};

/// What decides which settings a step can use.
struct StepFacts {
  Task task = Task::classification;
  bool decoder_only = false;
  bool source_target = false;
  std::string method;  // of a finetune step
  std::string format;  // of a quantize step
  bool generates = false;
  bool samples = false;
  bool generate_mode = false;
};

bool is_used(Use use, const StepFacts& facts);
/// Completes "only … use it": "methods lora and qlora".
std::string_view use_phrase(Use use);

struct Setting {
  Sections sections = 0;
  /// As written below its section; dotted where it stands in a map of its own ("generation.num_beams").
  std::string_view key;
  ValueType type = ValueType::text;
  /// JSON text; empty: none, the setting is absent unless given.
  std::string_view fallback = {};
  /// Must be given (where it is used).
  bool required = false;
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  /// The bound itself is not allowed.
  bool above_minimum = false, below_maximum = false;
  std::span<const std::string_view> choices = {};
  Use use = Use::always;
  /// Whether the result of a job depends on it: it is part of the job's id then.
  bool in_hash = true;
  /// Where it is not given it is that of the training step before, if there is one.
  bool inherited = false;
  std::string_view unit = {};
  std::string_view doc;

  bool in(Section section) const { return contains(sections, section); }
};

/// All rows, in the order of the documentation. Rows with the same section and key are alternatives whose `use`
/// differs (a default that depends on the method); they have the same type and range.
std::span<const Setting> settings_table();

/// The first row of `key` in `section`, or null.
const Setting* find_setting(Section section, std::string_view key);
/// The row of `key` that a step with these facts uses, or null where it can use none.
const Setting* find_used_setting(Section section, std::string_view key, const StepFacts& facts);
/// Keys of a section in table order, without repetition.
std::vector<std::string_view> setting_keys(Section section);
/// True where `prefix.` begins keys of the section: `generation` of evaluate, `fields` of data.
bool is_setting_group(Section section, std::string_view prefix);

/// "an integer of at least 1", "one of fp32, bf16, fp16": completes "expected …".
std::string expectation(const Setting& setting);

/// Metric names that an `evaluate` of this task computes where it lists none.
std::vector<std::string> default_evaluation_metrics(Task task, bool source_target);
/// The metrics that `evaluate` may list for this task.
std::vector<std::string> possible_evaluation_metrics(Task task);
/// True where the metric compares generated text.
bool metric_needs_generation(std::string_view metric);

std::string_view task_name(Task task);
std::optional<Task> parse_task(std::string_view name);

/// Part of every job's id; raised when our numbers change for the same settings and files.
inline constexpr int kResultVersion = 1;

}  // namespace finesweep
