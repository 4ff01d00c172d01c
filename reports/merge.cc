#include "reports/merge.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "reports/metric_names.h"

namespace finesweep::reports {

namespace {

constexpr const char* kSweepPath = "sweep";

/// Whether a succeeded job of the run has it.
std::set<std::string> metrics_of(const RunData& data) {
  std::set<std::string> metrics;
  for (const Trial& trial : data.plan.trials)
    for (const TrialStep& step : trial.steps)
      if (const auto job = data.jobs.find(step.job); job != data.jobs.end() && job->second.outcome)
        for (const auto& [name, value] : job->second.outcome->metrics) metrics.insert(step.name + "." + name);
  return metrics;
}

JobId id_in(const std::string& sweep, const JobId& job) {
  return JobId::of(sweep + "/" + job.hex());
}

/// All paths, in the order of the sweeps that first have them.
std::vector<std::string> united_paths(const std::vector<NamedRun>& runs) {
  std::vector<std::string> paths{kSweepPath};
  for (const NamedRun& run : runs)
    for (const std::string& path : run.data.plan.swept_paths)
      if (std::find(paths.begin() + 1, paths.end(), path) == paths.end()) paths.push_back(path);
  return paths;
}

void add_run(RunData& merged, NamedRun& run) {
  const Plan& plan = run.data.plan;
  for (const Trial& trial : plan.trials) {
    Trial& added = merged.plan.trials.emplace_back(trial);
    added.name = run.name + "/" + trial.name;
    added.configuration = run.name + "/" + trial.configuration;
    added.swept.assign(merged.plan.swept_paths.size(), Json());
    added.swept[0] = run.name;
    for (std::size_t i = 0; i < trial.swept.size() && i < plan.swept_paths.size(); ++i) {
      const auto& paths = merged.plan.swept_paths;
      const auto at = std::find(paths.begin() + 1, paths.end(), plan.swept_paths[i]);
      added.swept[static_cast<std::size_t>(at - paths.begin())] = trial.swept[i];
    }
    for (TrialStep& step : added.steps) step.job = id_in(run.name, step.job);
  }
  for (auto& [id, job] : run.data.jobs) {
    const JobId renamed = id_in(run.name, id);
    job.id = renamed;
    merged.jobs.emplace(renamed, std::move(job));
  }
  for (auto& [id, profiles] : run.data.profiles) merged.profiles.emplace(id_in(run.name, id), std::move(profiles));
  for (const std::string& remark : run.data.remarks) merged.remarks.push_back(run.name + ": " + remark);
}

/// The metric that all show, else the one that most of the sweeps have a value of.
std::string shown_metric(const std::vector<NamedRun>& runs, std::vector<std::string>& remarks) {
  std::vector<std::string> shown;
  std::string list;
  for (const NamedRun& run : runs) {
    const std::string& metric = run.data.plan.report.metric;
    if (metric.empty()) continue;
    list += (list.empty() ? "" : ", ") + run.name + " " + metric;
    if (std::ranges::find(shown, metric) == shown.end()) shown.push_back(metric);
  }
  if (shown.empty()) return "";
  if (shown.size() == 1) return shown[0];
  std::map<std::string, int> having;
  for (const NamedRun& run : runs) {
    const std::set<std::string> metrics = metrics_of(run.data);
    for (const std::string& metric : shown) having[metric] += metrics.contains(metric) ? 1 : 0;
  }
  const std::string chosen =
      *std::ranges::max_element(shown, {}, [&](const auto& metric) { return having[metric]; });
  remarks.push_back("The sweeps show different metrics (" + list + "); they are compared by " + chosen +
                    ". --metric chooses another.");
  return chosen;
}

ReportSettings settings_of(const std::vector<NamedRun>& runs, const MergeOptions& options,
                           std::vector<std::string>& remarks) {
  ReportSettings settings;
  settings.metric = options.metric.empty() ? shown_metric(runs, remarks) : options.metric;
  settings.select = runs[0].data.plan.report.select;
  bool has_goal = false, goals_differ = false;
  for (const NamedRun& run : runs) {
    const ReportSettings& report = run.data.plan.report;
    if (report.select != settings.select) settings.select.clear();
    if (report.metric == settings.metric) {
      goals_differ = goals_differ || (has_goal && report.goal != settings.goal);
      if (!has_goal) settings.goal = report.goal;
      has_goal = true;
    }
    if (settings.baseline.empty() && !report.baseline.empty()) settings.baseline = run.name + "/" + report.baseline;
  }
  const bool only_of_others = !options.metric.empty() && !has_goal;
  if (settings.select.empty() || only_of_others) settings.select = settings.metric;
  for (const NamedRun& run : runs)
    if (run.data.plan.report.select == settings.select && run.data.plan.report.selects_on_test)
      settings.selects_on_test = true;
  if (!has_goal) settings.goal = higher_is_better(settings.metric) ? Goal::maximize : Goal::minimize;
  if (goals_differ)
    remarks.push_back("The sweeps disagree on whether more of " + settings.metric + " is better; the first, " +
                      runs[0].name + ", was followed.");
  return settings;
}

}  // namespace

Result<RunData> merge_runs(std::vector<NamedRun> runs, const MergeOptions& options) {
  if (runs.empty()) return Error{"there is no sweep to compare"};
  if (!options.metric.empty()) {
    std::set<std::string> known;
    for (const NamedRun& run : runs) known.merge(metrics_of(run.data));
    if (!known.contains(options.metric)) {
      std::string list;
      for (const std::string& metric : known) list += (list.empty() ? "" : ", ") + metric;
      return Error{"no trial of these sweeps has a value of '" + options.metric + "'; they have " +
                   (list.empty() ? "no values yet" : list)};
    }
  }
  RunData merged;
  merged.plan.report = settings_of(runs, options, merged.remarks);
  merged.plan.swept_paths = united_paths(runs);
  for (const NamedRun& run : runs) {
    merged.plan.name += (merged.plan.name.empty() ? "" : ", ") + run.name;
    merged.sweeps.push_back(run.name);
  }
  for (NamedRun& run : runs) add_run(merged, run);
  return merged;
}

}  // namespace finesweep::reports
