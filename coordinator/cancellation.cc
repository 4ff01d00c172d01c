#include "coordinator/cancellation.h"

#include <set>
#include <unordered_map>
#include <utility>

#include "coordinator/find_trial.h"

namespace finesweep::coordinator {

namespace {

bool is_over(JobPhase phase) {
  return phase == JobPhase::succeeded || phase == JobPhase::failed || phase == JobPhase::cancelled;
}

/// As results.csv will have it; empty while the trial goes on.
std::string end_of(const Trial& trial, const std::function<JobPhase(const JobId&)>& phase_of) {
  bool succeeded = true, cancelled = false;
  for (const TrialStep& step : trial.steps) {
    const JobPhase phase = phase_of(step.job);
    if (phase == JobPhase::failed) return "failed";
    cancelled |= phase == JobPhase::cancelled;
    succeeded &= phase == JobPhase::succeeded;
  }
  return cancelled ? "cancelled" : succeeded ? "succeeded" : "";
}

/// Jobs that trials need, with all that these start from.
class NeededJobs {
 public:
  explicit NeededJobs(const Plan& plan) {
    for (const Job& job : plan.jobs) jobs_[job.id] = &job;
  }

  void add(const Trial& trial, std::set<JobId>& needed) const {
    for (const TrialStep& step : trial.steps) add(step.job, needed);
  }

 private:
  void add(const JobId& first, std::set<JobId>& needed) const {
    std::vector<JobId> todo{first};
    while (!todo.empty()) {
      const JobId id = todo.back();
      todo.pop_back();
      const auto found = jobs_.find(id);
      if (found == jobs_.end() || !needed.insert(id).second) continue;
      todo.insert(todo.end(), found->second->inputs.begin(), found->second->inputs.end());
      if (found->second->continues) todo.push_back(*found->second->continues);
    }
  }

  std::unordered_map<JobId, const Job*> jobs_;
};

/// Trials that `wanted` means; what means none goes into `unknown`.
std::set<const Trial*> named_trials(const Plan& plan, const std::vector<std::string>& wanted, Json& unknown) {
  std::set<const Trial*> named;
  for (const std::string& word : wanted) {
    bool is_label = false;
    for (const Trial& trial : plan.trials) {
      if (trial.label != word) continue;
      is_label = true;
      named.insert(&trial);
    }
    if (is_label) continue;
    if (const auto trial = find_trial(plan, word))
      named.insert(*trial);
    else
      unknown.push_back({{"trial", word}, {"message", trial.error().message}});
  }
  return named;
}

}  // namespace

Cancellation plan_cancellation(const Plan& plan, const std::vector<std::string>& wanted,
                               const std::function<JobPhase(const JobId&)>& phase_of) {
  Json cancelled = Json::array(), over = Json::array(), shared = Json::array(), unknown = Json::array();
  const auto named = named_trials(plan, wanted, unknown);
  const NeededJobs needed(plan);
  std::set<JobId> of_others;
  std::vector<const Trial*> to_cancel;
  for (const Trial& trial : plan.trials) {
    const bool is_named = wanted.empty() || named.contains(&trial);
    const std::string end = end_of(trial, phase_of);
    if (is_named && !end.empty())
      over.push_back({{"trial", trial.name}, {"label", trial.label}, {"state", end}});
    else if (is_named)
      to_cancel.push_back(&trial);
    else if (end.empty())
      needed.add(trial, of_others);
  }

  std::set<JobId> jobs;
  for (const Trial* trial : to_cancel) {
    std::set<JobId> mine;
    needed.add(*trial, mine);
    bool ends = false;
    for (const JobId& job : mine) {
      if (is_over(phase_of(job)) || of_others.contains(job)) continue;
      jobs.insert(job);
      ends = true;
    }
    (ends ? cancelled : shared).push_back({{"trial", trial->name}, {"label", trial->label}});
  }
  Cancellation cancellation;
  // In the plan's order: what a job starts from is cancelled before it.
  for (const Job& job : plan.jobs)
    if (jobs.contains(job.id)) cancellation.jobs.push_back(job.id);
  cancellation.answer = {{"ok", unknown.empty()},
                         {"cancelled", std::move(cancelled)},
                         {"over", std::move(over)},
                         {"shared", std::move(shared)},
                         {"unknown", std::move(unknown)}};
  return cancellation;
}

}  // namespace finesweep::coordinator
