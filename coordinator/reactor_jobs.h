#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "coordinator/dispatch_policy.h"
#include "coordinator/reactor.h"

namespace finesweep::coordinator {

/// The sweep's jobs by their index in plan order, with what hangs on what and how each stands. Knows no workers.
class ReactorJobs {
 public:
  struct State {
    JobPhase phase = JobPhase::waiting;
    AttemptNumber attempts = 0;
    int failures = 0;
    int losses = 0;
    /// Needed jobs that have not succeeded.
    int missing = 0;
    /// To be cancelled as soon as nothing is being published for it.
    bool cancel_requested = false;
  };

  /// Phases as history has them: succeeded, failed and cancelled stay; all else waits. Throws std::invalid_argument
  /// where a job occurs twice or stands before one that it needs. `jobs` outlive it.
  ReactorJobs(const std::vector<Job>& jobs, const std::map<JobId, JobHistory>& history);

  int size() const { return static_cast<int>(jobs_.size()); }
  /// -1: no such job.
  int find(const JobId& id) const;
  const Job& job(int index) const { return jobs_[index]; }
  State& operator[](int index) { return states_[index]; }
  const State& operator[](int index) const { return states_[index]; }
  const std::string& error(int index) const;
  const Counts& counts() const { return counts_; }
  bool all_ended() const;

  /// Every change of phase goes through here, so that the counts hold.
  void set_phase(int index, JobPhase phase);
  void set_error(int index, std::string error) { errors_[index] = std::move(error); }

  /// The job has succeeded: `ready` is called for each job that now has all it needs, in plan order.
  void release_dependents(int index, const std::function<void(int)>& ready);
  /// The job will not succeed: `visit` is called for each waiting job that needs it, directly or not, once, in plan
  /// order among those of equal distance. It must end the job's waiting.
  void visit_dependents(int index, const std::function<void(int)>& visit);
  const std::vector<int>& needs(int index) const { return needs_[index]; }

  /// How each job matters to the dispatch policy. `packing` is empty or has an entry for each job; what is isolated
  /// or needs several devices is alone whatever it says.
  std::vector<JobTraits> traits(const std::vector<PackTraits>& packing) const;

  void sanity_check() const;

 private:
  const std::vector<Job>& jobs_;  // the plan's
  std::vector<State> states_;
  std::vector<std::vector<int>> needs_;  // without repetition
  // Who needs job i: dependents_[first_dependent_[i]] up to those of job i + 1.
  std::vector<int> dependents_;
  std::vector<std::size_t> first_dependent_;
  std::unordered_map<JobId, int> index_;
  std::unordered_map<int, std::string> errors_;
  Counts counts_;
};

}  // namespace finesweep::coordinator
