#include "tests/coordinator/simulation_store.h"

#include <algorithm>

namespace finesweep::coordinator {

using Reason = RecordAttemptEnd::Reason;

ModelStore::ModelStore(const std::vector<Job>& jobs, int max_losses) : max_losses_(max_losses) {
  for (const Job& job : jobs) jobs_[job.id].retries = job.retries;
}

void ModelStore::apply(const std::vector<Effect>& effects, simulation::Report& report) {
  for (const Effect& effect : effects) {
    if (const auto* attempt = std::get_if<RecordAttempt>(&effect)) add(*attempt, report);
    if (const auto* end = std::get_if<RecordAttemptEnd>(&effect)) add(*end, report);
    if (const auto* end = std::get_if<RecordJobEnd>(&effect)) add(*end, report);
  }
}

void ModelStore::add(const RecordAttempt& effect, simulation::Report&) {
  Record& job = record(effect.attempt.job);
  require(effect.attempt.number > job.attempts, "an attempt number did not rise");
  require(!job.committed && !job.end, "a job that is over was attempted again");
  for (const auto& [number, attempt] : job.tries)
    require(attempt.end.has_value(), "a job was attempted while an earlier attempt was out");
  job.attempts = effect.attempt.number;
  const int order = next_order_++;
  const int pack =
      effect.pack_first == effect.attempt.job ? order : record(effect.pack_first).tries.rbegin()->second.order;
  job.tries[job.attempts] = {effect.worker, order, pack, std::nullopt};
}

void ModelStore::add(const RecordAttemptEnd& effect, simulation::Report& report) {
  Record& job = record(effect.attempt.job);
  const auto attempt = job.tries.find(effect.attempt.number);
  require(attempt != job.tries.end(), "an attempt ended that was never recorded");
  require(!attempt->second.end, "an attempt ended twice");
  require(!job.committed, "an attempt of a committed job ended without a result");
  attempt->second.end = effect.reason;
  const int failures = effect.failures - job.failures, losses = effect.losses - job.losses;
  require(failures == 0 || (failures == 1 && effect.reason == Reason::failed), "a failure was charged wrongly");
  require(losses == 0 || (losses == 1 && effect.reason == Reason::lost), "a loss was charged wrongly");
  job.failures = effect.failures;
  job.losses = effect.losses;
  require(job.failures <= job.retries + 1, "a job failed more often than it may be retried");
  require(job.losses <= max_losses_, "a job was lost more often than allowed");
  report.failures += failures;
  report.losses += losses;
  report.thefts += effect.reason == Reason::superseded;
  report.interruptions += effect.reason == Reason::interrupted;
}

void ModelStore::add(const RecordJobEnd& effect, simulation::Report& report) {
  Record& job = record(effect.job);
  require(!job.committed, "a committed job failed or was cancelled");
  require(!job.end, "a job ended twice");
  for (const auto& [number, attempt] : job.tries)
    require(attempt.end.has_value(), "a job ended while an attempt was out");
  require(!effect.error.empty(), "a job ended without saying why");
  for (const char* private_word : {"host", "pid", "attempt"})
    require(effect.error.find(private_word) == std::string::npos ||
                effect.error.starts_with("its worker was lost") ||
                effect.error.find("failed: its worker was lost") != std::string::npos,
            "an error names what differs from run to run: " + effect.error);
  job.end = effect;
  (effect.cancelled ? report.cancelled : report.failed) += 1;
}

void ModelStore::check_publishable(const AttemptKey& attempt, const WorkerId& brought_by) const {
  const Record& job = record(attempt.job);
  const auto found = job.tries.find(attempt.number);
  require(found != job.tries.end(), "an attempt that was never recorded is published");
  require(attempt.number == job.attempts, "an attempt is published that is not its job's newest");
  require(!found->second.end, "an attempt is published that had ended");
  require(found->second.worker == brought_by, "a result is published from a worker that was not given the attempt");
}

void ModelStore::commit(const AttemptKey& attempt, simulation::Report& report) {
  Record& job = record(attempt.job);
  require(!job.committed, "a job was committed twice");
  require(!job.end, "a job was committed that had failed or been cancelled");
  require(attempt.number == job.attempts, "an attempt was committed that is not its job's newest");
  require(!job.tries.at(attempt.number).end, "an attempt was committed that had ended");
  require(staged_.contains(attempt), "an attempt was committed whose files are not whole");
  job.committed = attempt.number;
  ++report.committed;
}

std::map<JobId, JobHistory> ModelStore::recover(simulation::Report& report) {
  for (const auto& [id, attempt] : renamed_) {
    if (record(id).committed) continue;
    commit(attempt, report);
    ++report.adopted_artifacts;
  }
  // The first open pack of each worker is the one that it had begun.
  std::map<WorkerId, int> first_open;
  for (const auto& [id, job] : jobs_)
    for (const auto& [number, attempt] : job.tries)
      if (!attempt.end && !job.committed) {
        const auto [first, is_new] = first_open.emplace(attempt.worker, attempt.pack);
        if (!is_new) first->second = std::min(first->second, attempt.pack);
      }
  std::map<JobId, JobHistory> history;
  for (const auto& [id, job] : jobs_) {
    if (job.attempts == 0 && !job.end) continue;
    JobHistory& past = history[id];
    past.attempts = job.attempts;
    past.failures = job.failures;
    past.losses = job.losses;
    if (job.committed) {
      past.phase = JobPhase::succeeded;
    } else if (job.end) {
      past.phase = job.end->cancelled ? JobPhase::cancelled : JobPhase::failed;
      past.error = job.end->error;
    } else if (const Try& newest = job.tries.at(job.attempts); !newest.end) {
      past.phase = JobPhase::running;
      past.open = first_open.at(newest.worker) == newest.pack ? JobHistory::Open::begun : JobHistory::Open::queued;
    }
  }
  return history;
}

bool ModelStore::is_reported_end(const AttemptKey& attempt) const {
  const auto end = end_of(attempt);
  return end == Reason::failed || end == Reason::interrupted;
}

bool ModelStore::is_recorded(const AttemptKey& attempt, const WorkerId& worker) const {
  const auto& tries = record(attempt.job).tries;
  const auto found = tries.find(attempt.number);
  return found != tries.end() && found->second.worker == worker;
}

std::optional<Reason> ModelStore::end_of(const AttemptKey& attempt) const {
  const auto& tries = record(attempt.job).tries;
  const auto found = tries.find(attempt.number);
  return found == tries.end() ? std::nullopt : found->second.end;
}

bool ModelStore::all_over() const {
  return std::all_of(jobs_.begin(), jobs_.end(),
                     [](const auto& job) { return job.second.committed || job.second.end; });
}

void ModelStore::check_end(const std::vector<Job>& jobs) const {
  require(all_over(), "the sweep ended before its jobs");
  for (const Job& job : jobs) {
    const Record& mine = record(job.id);
    bool hopeless = false;
    for (const JobId& need : needs_of(job)) {
      require(!mine.committed || record(need).committed, "a job has a result without what it needs");
      hopeless |= record(need).end.has_value();
    }
    if (!hopeless) continue;
    require(mine.end.has_value(), "a job that cannot run has no end");
    require(mine.end->error.starts_with("needs ") || mine.end->cancelled, "a job that cannot run does not say why");
  }
}

}  // namespace finesweep::coordinator
