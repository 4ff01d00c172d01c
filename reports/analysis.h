#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "jobs/state.h"
#include "reports/run_data.h"
#include "reports/statistics.h"

namespace finesweep::reports {

/// One row of results.csv.
struct TrialResult {
  const Trial* trial = nullptr;
  /// succeeded, failed, cancelled or pending (a running trial is pending: it has no result).
  JobState state = JobState::pending;
  /// "step: reason" of the first step that failed or was cancelled.
  std::string error;
  struct Value {
    double value = 0;
    JobId job;
  };
  std::map<std::string, Value> metrics;  // by "step.metric", of the jobs that succeeded
  std::map<std::string, int> packs;      // steps that ran in a pack → of how many jobs
};

/// The trials that differ only in seed. Statistics are over repeats that succeeded; where several resolve to one
/// job they count as one value.
struct Configuration {
  std::string name;
  /// Unique in the report.
  std::string label;
  std::vector<std::size_t> trials;  // indices into Analysis::trials, by repeat
  int succeeded = 0;
  std::map<std::string, Sample> metrics;
  /// report.metric minus that of the baseline, over repeats (trials of one seed) that succeeded in both.
  std::optional<Sample> difference;
  bool pareto = false;
  /// "highest quality", "lowest memory", "fastest", "best balance".
  std::vector<std::string> best_for;
  /// Steps of which a succeeded trial ran in a pack.
  std::set<std::string, std::less<>> packed_steps;
  /// The metric is a time that was taken while other jobs ran beside: it says nothing of this job alone.
  bool is_time_of_pack(const std::string& metric) const;
};

/// Everything that the tables say, decided once.
struct Analysis {
  const RunData* data = nullptr;
  /// "step.metric", in pipeline order, then by name. That memory was not measured in packs does not take the metric
  /// away.
  std::vector<std::string> metrics;
  std::map<std::string, StepKind, std::less<>> step_kinds;
  std::vector<TrialResult> trials;            // in expansion order
  std::vector<Configuration> configurations;  // in expansion order
  /// The metrics behind the marks; empty where there is none. Quality is report.select, else report.metric; times
  /// that were taken in packs are not compared.
  std::string quality, memory, time;
  /// Index of the best configuration by quality.
  std::optional<std::size_t> best;
  std::optional<std::size_t> baseline;
  /// Sentences that a reader must know before trusting the table.
  std::vector<std::string> warnings;
  /// What the jobs ran on: values of each key, with the number of jobs that saw them.
  std::map<std::string, std::map<std::string, int>> environment;

  /// Configurations sorted by the shown metric, best first; those without it last.
  std::vector<std::size_t> ranking() const;
  /// By the report's goal where it is the shown metric, or the choosing one of the same nature (a loss may choose
  /// what is shown by its ROUGE); else by the metric's nature.
  bool more_is_better(const std::string& metric) const;
  /// Indices of the configurations with the best mean; empty where fewer than two have one or all are equal, or
  /// where they do not compare.
  std::vector<std::size_t> best_in(const std::string& metric) const;
};

/// `data` must outlive the analysis.
Analysis analyze(const RunData& data);

}  // namespace finesweep::reports
