#include "reports/metric_tables.h"

#include <algorithm>
#include <map>

#include "reports/metric_names.h"

namespace finesweep::reports {

std::vector<std::pair<std::string, std::vector<std::string>>> metrics_by_step(const Analysis& analysis) {
  std::vector<std::pair<std::string, std::vector<std::string>>> steps;
  for (const std::string& metric : analysis.metrics) {
    const bool within_a_mean =
        is_spread_within_run(metric) && std::ranges::any_of(analysis.metrics, [&](const auto& other) {
          return spread_within_run(other) == metric;
        });
    if (within_a_mean) continue;
    if (steps.empty() || steps.back().first != step_of(metric)) steps.push_back({std::string(step_of(metric)), {}});
    steps.back().second.push_back(metric);
  }
  return steps;
}

std::vector<std::pair<const TrialResult*, std::string>> failures_of(const Analysis& analysis) {
  std::map<std::string, const Configuration*> by_name;
  for (const Configuration& configuration : analysis.configurations) by_name[configuration.name] = &configuration;
  std::vector<std::pair<const TrialResult*, std::string>> failures;
  for (const TrialResult& trial : analysis.trials)
    if (trial.state == JobState::failed || trial.state == JobState::cancelled)
      failures.emplace_back(&trial, by_name.at(trial.trial->configuration)->label);
  return failures;
}

std::vector<std::pair<std::string, std::string>> environment_lines(const Analysis& analysis) {
  std::vector<std::pair<std::string, std::string>> lines;
  for (const auto& [key, values] : analysis.environment) {
    std::string list;
    for (const auto& [value, jobs] : values) {
      list += (list.empty() ? "" : ", ") + value;
      if (values.size() > 1) list += " (" + std::to_string(jobs) + (jobs == 1 ? " job)" : " jobs)");
    }
    lines.emplace_back(key, std::move(list));
  }
  return lines;
}

}  // namespace finesweep::reports
