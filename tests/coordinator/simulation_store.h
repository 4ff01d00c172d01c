#pragma once

#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "coordinator/reactor.h"
#include "tests/coordinator/simulation.h"

namespace finesweep::coordinator {

/// A broken promise; ends the history.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline void require(bool holds, const std::string& what) {
  if (!holds) throw Violation(what);
}

inline std::vector<JobId> needs_of(const Job& job) {
  std::vector<JobId> needs = job.inputs;
  if (job.continues) needs.push_back(*job.continues);
  return needs;
}

/// What is durable: it survives every kill. Refuses, as a violation, whatever no history may contain.
class ModelStore {
 public:
  ModelStore(const std::vector<Job>& jobs, int max_losses);

  /// One durable transaction of all effects that must be recorded.
  void apply(const std::vector<Effect>& effects, simulation::Report& report);

  /// The worker has written all files of the attempt.
  void stage(const AttemptKey& attempt) { staged_.insert(attempt); }
  bool is_staged(const AttemptKey& attempt) const { return staged_.contains(attempt); }

  void check_publishable(const AttemptKey& attempt, const WorkerId& brought_by) const;
  /// Staging folder → artifact folder; not yet the result.
  void rename(const AttemptKey& attempt) { renamed_[attempt.job] = attempt; }
  void commit(const AttemptKey& attempt, simulation::Report& report);

  /// A new coordinator: adopts what was renamed and not committed, and says what it knows of every job.
  std::map<JobId, JobHistory> recover(simulation::Report& report);

  bool is_committed(const JobId& job) const { return record(job).committed.has_value(); }
  bool is_committed(const AttemptKey& attempt) const { return record(attempt.job).committed == attempt.number; }
  /// With a failure or an interruption, as its worker reported.
  bool is_reported_end(const AttemptKey& attempt) const;
  bool is_recorded(const AttemptKey& attempt, const WorkerId& worker) const;
  std::optional<RecordAttemptEnd::Reason> end_of(const AttemptKey& attempt) const;
  bool is_over(const JobId& job) const { return record(job).committed || record(job).end; }
  bool all_over() const;
  void check_end(const std::vector<Job>& jobs) const;

 private:
  struct Try {
    WorkerId worker;
    int order = 0;
    int pack = 0;  // order of the first of its pack
    std::optional<RecordAttemptEnd::Reason> end;
  };
  struct Record {
    int retries = 0;
    AttemptNumber attempts = 0;
    int failures = 0, losses = 0;
    std::map<AttemptNumber, Try> tries;
    std::optional<AttemptNumber> committed;
    std::optional<RecordJobEnd> end;
  };
  Record& record(const JobId& job) { return jobs_.at(job); }
  const Record& record(const JobId& job) const { return jobs_.at(job); }

  void add(const RecordAttempt& effect, simulation::Report& report);
  void add(const RecordAttemptEnd& effect, simulation::Report& report);
  void add(const RecordJobEnd& effect, simulation::Report& report);

  int max_losses_;
  int next_order_ = 0;
  std::map<JobId, Record> jobs_;
  std::map<JobId, AttemptKey> renamed_;
  std::set<AttemptKey> staged_;
};

}  // namespace finesweep::coordinator
