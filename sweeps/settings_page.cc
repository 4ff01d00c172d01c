#include <vector>

#include "jobs/settings_table.h"
#include "sweeps/describe.h"

namespace finesweep::sweeps {

namespace {

struct Chapter {
  Section section;
  std::string_view heading, intro;
};

constexpr Chapter kChapters[] = {
    {Section::top, "The file", "Beside these a file has `data`, `pipeline`, `sweep`, `report` and `resources`."},
    {Section::data, "data", ""},
    {Section::sweep, "sweep", ""},
    {Section::report, "report", ""},
    {Section::resources, "resources", "These say how a sweep runs, not what it finds."},
    {Section::distill, "distill", ""},
    {Section::finetune, "finetune", ""},
    {Section::prune, "prune", ""},
    {Section::quantize, "quantize", ""},
    {Section::merge, "merge", "Merges the adapter into its base."},
    {Section::evaluate, "evaluate", ""},
    {Section::benchmark, "benchmark", "Runs alone on its device."},
};

/// `alternative`: other rows of the table give other defaults.
std::string default_cell(const Setting& setting, bool alternative) {
  if (setting.required) return "required";
  std::string text;
  if (!setting.fallback.empty()) text.append("`").append(setting.fallback).append("`");
  if (setting.inherited) text = "that of the training step before, else " + text;
  if (alternative && !text.empty()) text.append(" (").append(use_phrase(setting.use)).append(")");
  return text;
}

std::string value_cell(const Setting& setting) {
  std::string text = expectation(setting);
  for (std::string_view article : {"an ", "a "})
    if (text.starts_with(article)) text.erase(0, article.size());
  if (!setting.unit.empty()) text += "; " + std::string(setting.unit);
  return text;
}

std::string chapter(const Chapter& chapter) {
  std::string text = "\n## " + std::string(chapter.heading) + "\n";
  if (!chapter.intro.empty()) text += "\n" + std::string(chapter.intro) + "\n";
  text += "\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  for (std::string_view key : setting_keys(chapter.section)) {
    std::string defaults;
    std::vector<const Setting*> rows;
    for (const Setting& setting : settings_table())
      if (setting.in(chapter.section) && setting.key == key) rows.push_back(&setting);
    const bool alternatives = rows.size() > 1;
    for (const Setting* row : rows)
      if (const std::string one = default_cell(*row, alternatives); !one.empty())
        defaults += (defaults.empty() ? "" : ", ") + one;
    const Setting* first = rows.front();
    std::string meaning(first->doc);
    if (first->use != Use::always && !alternatives)
      meaning += " Used by " + std::string(use_phrase(first->use)) + " only.";
    text += "| `" + std::string(key) + "` | " + value_cell(*first) + " | " + defaults + " | " + meaning + " |\n";
  }
  return text;
}

}  // namespace

std::string settings_page() {
  std::string text =
      "# Settings of a sweep file\n\n"
      "Made from the settings table (`jobs/settings_table.cc`); a test keeps the two the same.\n\n"
      "A dotted key stands in a map of its own (`generation: {num_beams: 4}`) or is written with the dot in axes\n"
      "(`evaluate.generation.num_beams: [1, 4]`). A setting that a step cannot use is dropped, and `finesweep "
      "plan` says\n"
      "so. Unknown keys are errors.\n";
  for (const Chapter& one : kChapters) text += chapter(one);
  return text;
}

}  // namespace finesweep::sweeps
