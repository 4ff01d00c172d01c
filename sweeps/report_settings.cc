#include <algorithm>
#include <array>
#include <set>

#include "sweeps/planner.h"

namespace finesweep::sweeps {

namespace {

std::string main_metric(Task task, const std::vector<std::string>& yielded) {
  const std::vector<std::string> wishes =
      task == Task::classification ? std::vector<std::string>{"accuracy", "f1", "loss"}
      : task == Task::seq2seq      ? std::vector<std::string>{"rougeL", "bleu", "loss"}
                                   : std::vector<std::string>{"perplexity", "loss"};
  for (const std::string& wish : wishes)
    if (std::find(yielded.begin(), yielded.end(), wish) != yielded.end()) return wish;
  return "";
}

std::string step_of(const std::string& metric) {
  return metric.substr(0, metric.find('.'));
}

/// The steps that look at the model which this one looks at: no step between them changes it.
std::set<std::string> steps_on_same_model(const SweepDeclaration& declaration, const std::string& step) {
  const auto looks = [](StepKind kind) { return kind == StepKind::evaluate || kind == StepKind::benchmark; };
  std::set<std::string> together;
  bool has_it = false;
  for (const auto& each : declaration.steps) {
    if (!looks(each.kind)) {
      if (has_it) break;
      together.clear();
      continue;
    }
    together.insert(each.name);
    has_it |= each.name == step;
  }
  return together;
}

}  // namespace

Goal natural_goal(std::string_view metric) {
  const std::string_view name = metric.substr(metric.rfind('.') + 1);
  if (name.find("per_second") != std::string_view::npos) return Goal::maximize;
  for (std::string_view word : {"loss", "perplexity", "seconds", "_ms_", "memory", "model_mb", "parameters"})
    if (name.find(word) != std::string_view::npos) return Goal::minimize;
  return Goal::maximize;
}

ReportSettings report_settings(const SweepDeclaration& declaration,
                               const std::vector<std::pair<std::string, std::string>>& yields, Task task,
                               Diagnostics& diagnostics) {
  ReportSettings report;
  std::vector<std::string> names;
  for (const auto& [name, split] : yields) names.push_back(name);
  auto split_of = [&](const std::string& metric) -> std::string {
    for (const auto& [name, split] : yields)
      if (name == metric) return split;
    return "";
  };
  auto take = [&](const std::optional<GivenText>& given, const char* path) -> std::string {
    if (!given) return "";
    if (std::find(names.begin(), names.end(), given->text) != names.end()) return given->text;
    // Where the step is right its metrics are the help.
    const std::size_t dot = given->text.find('.');
    const std::string step = given->text.substr(0, dot);
    std::vector<std::string> of_step;
    std::string known;
    for (const std::string& name : names) {
      if (!name.starts_with(step + ".")) continue;
      of_step.push_back(name.substr(step.size() + 1));
      known += (known.empty() ? "" : ", ") + of_step.back();
    }
    std::string hint;
    if (of_step.empty() || dot == std::string::npos) {
      hint = did_you_mean(given->text, names);
      if (hint.empty()) hint = "; expected STEP.METRIC, such as evaluate.accuracy";
    } else {
      hint = did_you_mean(given->text.substr(dot + 1), of_step) + "\n" + step + " yields " + known;
    }
    diagnostics.error(given->mark, path, "no step yields '" + given->text + "'" + hint);
    return "";
  };
  report.metric = take(declaration.metric, "report.metric");
  report.select = take(declaration.select, "report.select");

  if (!declaration.metric) {
    // The last evaluation of the test split, else of the validation split.
    for (const std::string split : {"test", "validation"}) {
      for (auto step = declaration.steps.rbegin(); step != declaration.steps.rend() && report.metric.empty();
           ++step) {
        std::vector<std::string> yielded;
        for (const auto& [name, of] : yields)
          if (of == split && step->kind == StepKind::evaluate && name.starts_with(step->name + "."))
            yielded.push_back(name.substr(step->name.size() + 1));
        if (const std::string metric = main_metric(task, yielded); !metric.empty())
          report.metric = step->name + "." + metric;
      }
    }
  }
  if (!declaration.select && !report.metric.empty()) {
    report.select = report.metric;
    if (split_of(report.metric) == "test") {
      const std::string metric = report.metric.substr(report.metric.find('.'));
      const std::set<std::string> same_model = steps_on_same_model(declaration, step_of(report.metric));
      for (const auto& [name, split] : yields)
        if (split == "validation" && name == step_of(name) + metric && same_model.contains(step_of(name)))
          report.select = name;
    }
  }
  report.selects_on_test = split_of(report.select) == "test";
  report.goal = declaration.goal.value_or(natural_goal(report.metric.empty() ? report.select : report.metric));
  return report;
}

}  // namespace finesweep::sweeps
