#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/job.h"

namespace finesweep {

/// One step of one trial, and the job that does it. Trials share jobs.
struct TrialStep {
  std::string name;  // "finetune", or the step's `name:`; prefixes its metrics
  StepKind kind = StepKind::finetune;
  JobId job;
};

/// One configuration with one seed: one row of results.csv.
struct Trial {
  std::string name;           // "1a2b3c4d.0"
  std::string configuration;  // "1a2b3c4d": hex digits of the configuration's hash, shared by its repeats
  std::string label;          // the sweep file's, or made from the swept values
  int repeat = 0;
  std::uint64_t seed = 0;
  /// One value for each of Plan::swept_paths; null where the path means nothing for this trial.
  std::vector<Json> swept;
  std::vector<TrialStep> steps;
};

enum class Goal { maximize, minimize };

struct ReportSettings {
  std::string select;  // metric that chooses the best, "validation.accuracy"; empty: none
  std::string metric;  // metric that is shown; empty: none
  Goal goal = Goal::maximize;
  std::string baseline;          // a configuration; empty: none
  bool selects_on_test = false;  // the choice is made on the test split: the report warns
};

struct Resources {
  int gpus = 1;
  int retries = 2;
  /// Threads of each worker on a CPU; 0: decided when the run begins, and kept.
  int threads = 0;
  /// "auto", "off", or the greatest number of jobs to a pack.
  std::string pack = "auto";
};

/// What a sweep file means: trials in expansion order and the jobs they need, inputs before those that read them.
struct Plan {
  std::string name;
  std::vector<std::string> swept_paths;
  std::vector<Trial> trials;
  std::vector<Job> jobs;
  ReportSettings report;
  Resources resources;
  /// For `plan` and the log: settings that were dropped, axes that became chains.
  std::vector<std::string> notes;
};

void to_json(Json& json, const Plan& plan);
void from_json(const Json& json, Plan& plan);

}  // namespace finesweep
