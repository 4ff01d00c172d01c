#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "coordinator/reactor.h"
#include "jobs/plan.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

/// How a running sweep is shown: names of jobs for people, progress records (coordinator/console.h), status.json,
/// and how long it will take.
class SweepView {
 public:
  explicit SweepView(const Plan& plan);

  /// "LoRA rank 8 #1 test": the first trial that needs the job, its repeat, and the step.
  const std::string& title(const JobId& job) const { return titles_.at(job); }

  /// Jobs of the plan.
  std::size_t jobs() const { return plan_.jobs.size(); }

  /// A job of this kind took so long, alone on its worker.
  void learn_pace(StepKind kind, double seconds);

  /// Seconds until the end with `workers`, by the mean times of the kinds of jobs; absent while nothing is known.
  std::optional<double> seconds_left(const Reactor& reactor, std::size_t workers) const;

  Json progress_record(const Reactor& reactor, std::size_t workers) const;

  struct WorkerEntry {
    WorkerId id;
    WorkerInfo info;
  };
  /// Counts, workers and what they do; the caller fills in who and when.
  storage::StatusSnapshot snapshot(const Reactor& reactor, const std::map<int, WorkerEntry>& workers) const;

 private:
  const Plan& plan_;
  std::unordered_map<JobId, std::string> titles_;
  struct Pace {
    double seconds = 0;
    int jobs = 0;
  };
  std::map<StepKind, Pace> pace_;
};

}  // namespace finesweep::coordinator
