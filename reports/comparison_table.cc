#include "reports/comparison_table.h"

#include <algorithm>
#include <array>
#include <set>

#include "jobs/counted.h"
#include "reports/metric_names.h"
#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

using namespace std::string_view_literals;

constexpr std::string_view kParameters = "trainable_parameters";
constexpr std::array kQualities{"accuracy"sv, "f1"sv,        "rouge1"sv, "rouge2"sv,
                                "rougeL"sv,   "rougeLsum"sv, "bleu"sv,   "perplexity"sv};
constexpr std::array kSizes{"model_mb"sv, "sparsity"sv};
constexpr std::array kOfBenchmark{"_ms_mean"sv, "_peak_memory_mb"sv, "_samples_per_second_mean"sv};

/// Of the last step that trains; empty where none has it.
std::string training_metric(const Analysis& analysis, std::string_view name) {
  std::set<std::string_view> training_steps;
  for (const std::string& metric : analysis.metrics)
    if (bare_name(metric) == kParameters) training_steps.insert(step_of(metric));
  std::string chosen;
  for (const std::string& metric : analysis.metrics)
    if (bare_name(metric) == name && training_steps.contains(step_of(metric))) chosen = metric;
  return chosen;
}

bool differs(const Analysis& analysis, auto&& property) {
  std::set<int> values;
  for (const Configuration& configuration : analysis.configurations) values.insert(property(configuration));
  return values.size() > 1;
}

std::string joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

ComparisonTable::Cell cell(const Analysis& analysis, std::size_t index, const ComparisonTable::Column& column,
                           const std::vector<std::size_t>& best) {
  const std::string& metric = column.metric;
  using Role = ComparisonTable::Role;
  const Configuration& configuration = analysis.configurations[index];
  switch (column.role) {
    case Role::label:
      return {(configuration.pareto ? std::string(kParetoMark) + " " : "") + on_one_line(configuration.label)};
    case Role::sweep:
      return {on_one_line(analysis.data->sweep_of(*analysis.trials[configuration.trials[0]].trial))};
    case Role::repeats:
      return {std::to_string(configuration.succeeded), false, {}, configuration.succeeded};
    case Role::difference:
      if (analysis.baseline == index) return {"baseline", false, {}, 0.0};
      if (!configuration.difference) return {};
      return {rounded_difference(*configuration.difference, true), false,
              rounded_difference(*configuration.difference, false), configuration.difference->mean};
    case Role::best_for:
      return {joined(configuration.best_for, ", ")};
    default:
      break;
  }
  ComparisonTable::Cell cell{value_text(configuration, metric), std::ranges::find(best, index) != best.end()};
  if (cell.text.empty()) return cell;
  cell.value = configuration.metrics.at(metric).mean;
  const bool is_cost = column.role != Role::shown && column.role != Role::chosen_by;
  if (is_cost) cell.short_text = rounded(*cell.value);
  if (is_cost && configuration.is_time_of_pack(metric)) cell.short_text += kInPack;
  return cell;
}

}  // namespace

std::string value_text(const Configuration& configuration, const std::string& metric) {
  const auto found = configuration.metrics.find(metric);
  if (found == configuration.metrics.end()) return "";
  const Sample& sample = found->second;
  if (bare_name(metric) == kParameters && sample.deviation == 0.0) return rounded(sample.mean);
  const auto spread = configuration.metrics.find(spread_within_run(metric));
  std::string text = sample.n > 1 ? rounded(sample.mean, sample.deviation)
                     : spread == configuration.metrics.end()
                         ? rounded(sample.mean)
                         : rounded(sample.mean, spread->second.mean).append(kOverBatches);
  if (configuration.is_time_of_pack(metric)) text += kInPack;
  return text;
}

ComparisonTable compare(const Analysis& analysis) {
  using Role = ComparisonTable::Role;
  const ReportSettings& report = analysis.data->plan.report;
  ComparisonTable table;
  const auto add = [&](Role role, std::string words, bool is_text = false) {
    table.columns.push_back({role, std::move(words), is_text});
  };
  const auto add_metric = [&](Role role, const std::string& metric) {
    if (!metric.empty() &&
        std::ranges::find(table.columns, metric, &ComparisonTable::Column::metric) == table.columns.end() &&
        std::ranges::find(analysis.metrics, metric) != analysis.metrics.end())
      table.columns.push_back({role, heading(metric), false, metric});
  };
  const auto add_all = [&](Role role, auto&& is_wanted) {
    for (const std::string& metric : analysis.metrics)
      if (is_wanted(step_of(metric), bare_name(metric))) add_metric(role, metric);
  };
  add(Role::label, "configuration", true);
  if (analysis.data->compares_sweeps()) add(Role::sweep, "sweep", true);
  add_metric(Role::shown, report.metric);
  add_all(Role::companion, [&](std::string_view step, std::string_view name) {
    return step == step_of(report.metric) && std::ranges::find(kQualities, name) != kQualities.end();
  });
  add_metric(Role::chosen_by, report.select);
  if (differs(analysis, [](const Configuration& c) { return c.succeeded; })) add(Role::repeats, "n");
  add_metric(Role::parameters, training_metric(analysis, kParameters));
  add_all(Role::size,
          [&](std::string_view, std::string_view name) { return std::ranges::find(kSizes, name) != kSizes.end(); });
  add_metric(Role::memory, analysis.memory);
  add_metric(Role::time, analysis.time);
  add_metric(Role::training_time, training_metric(analysis, "seconds"));
  add_all(Role::benchmark, [&](std::string_view step, std::string_view name) {
    const auto kind = analysis.step_kinds.find(step);
    return kind != analysis.step_kinds.end() && kind->second == StepKind::benchmark &&
           std::ranges::any_of(kOfBenchmark, [&](std::string_view ending) { return name.ends_with(ending); });
  });
  if (std::ranges::any_of(analysis.configurations, [](const Configuration& c) { return c.difference.has_value(); }))
    add(Role::difference, "difference to baseline");
  if (std::ranges::any_of(analysis.configurations, [](const Configuration& c) { return !c.best_for.empty(); }))
    add(Role::best_for, "best use case", true);

  std::vector<std::vector<std::size_t>> best;
  for (const auto& column : table.columns)
    best.push_back(column.metric.empty() ? std::vector<std::size_t>() : analysis.best_in(column.metric));
  table.configurations = analysis.ranking();
  for (const std::size_t index : table.configurations) {
    auto& row = table.rows.emplace_back();
    for (std::size_t c = 0; c < table.columns.size(); ++c)
      row.push_back(cell(analysis, index, table.columns[c], best[c]));
  }
  return table;
}

void shorten(ComparisonTable& table) {
  table.is_shortened = true;
  for (auto& row : table.rows)
    for (auto& cell : row)
      if (!cell.short_text.empty()) cell.text = cell.short_text;
}

std::vector<std::string> notes_of(const Analysis& analysis, const ComparisonTable& table) {
  std::vector<std::string> notes;
  const auto any_cell = [&](std::string_view text) {
    return std::ranges::any_of(table.rows, [&](const auto& row) {
      return std::ranges::any_of(row, [&](const auto& cell) { return cell.text.find(text) != std::string::npos; });
    });
  };
  const bool over_repeats = std::ranges::any_of(analysis.configurations, [](const Configuration& c) {
    return std::ranges::any_of(c.metrics, [](const auto& metric) { return metric.second.deviation.has_value(); });
  });
  if (over_repeats && any_cell("±"))
    notes.push_back(std::string("Values are mean ± standard deviation over repeats; without ±, ") +
                    (table.is_shortened ? "the mean alone." : "there is one value."));
  if (any_cell(kOverBatches)) notes.push_back("± … (batches): one repeat; the deviation is over its batches.");
  if (std::ranges::any_of(analysis.configurations, [](const Configuration& c) { return !c.packed_steps.empty(); }))
    notes.push_back(
        "† Taken while other jobs ran beside on the same device, in a pack: such times compare with nothing, and "
        "memory was not measured. `isolate: true` in the step measures each job alone.");
  if (std::ranges::any_of(analysis.configurations,
                          [](const Configuration& c) { return c.difference && c.difference->ci95; }))
    notes.push_back(
        "Differences pair the repeats that succeeded in both; in brackets their 95 % confidence interval "
        "(Student's "
        "t).");
  if (std::ranges::any_of(analysis.configurations, &Configuration::pareto)) {
    std::vector<std::string> dimensions;
    for (const std::string& metric : {analysis.quality, analysis.memory, analysis.time})
      if (!metric.empty()) dimensions.push_back(heading(metric));
    notes.push_back(std::string(kParetoMark) + " Pareto-optimal: no other is as good in " +
                    joined(dimensions, ", ") + " and better in one of them.");
  }
  return notes;
}

std::string best_sentence(const Analysis& analysis) {
  if (!analysis.best || analysis.configurations.size() < 2) return "";
  const ReportSettings& report = analysis.data->plan.report;
  const Configuration& best = analysis.configurations[*analysis.best];
  std::string text = "Best by " + heading(analysis.quality) + " (" + value_text(best, analysis.quality) +
                     "): " + on_one_line(best.label);
  if (report.metric != analysis.quality && best.metrics.contains(report.metric))
    text += ", with " + heading(report.metric) + " " + value_text(best, report.metric);
  if (best.difference && analysis.baseline)
    text += "; " + rounded_difference(*best.difference, true) + " against " +
            on_one_line(analysis.configurations[*analysis.baseline].label);
  return text + ".";
}

std::string counts_sentence(const Analysis& analysis) {
  std::string text;
  for (const JobState state : {JobState::succeeded, JobState::failed, JobState::cancelled, JobState::pending}) {
    const auto n = std::ranges::count_if(analysis.trials, [&](const TrialResult& t) { return t.state == state; });
    if (n == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + std::string(job_state_name(state));
  }
  return counted(std::ssize(analysis.trials), "trial") + " of " +
         counted(std::ssize(analysis.configurations), "configuration") + ": " + text + ".";
}

}  // namespace finesweep::reports
