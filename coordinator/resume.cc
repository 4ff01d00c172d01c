#include "coordinator/resume.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <set>

#include "coordinator/unix_time.h"
#include "jobs/crash_point.h"

namespace finesweep::coordinator {

namespace {

using Changes = std::vector<storage::Change>;

/// The coordinator died between publishing the job's artifact and recording its result.
void adopt(const storage::StoredJob& job, const Outcome& outcome, JobHistory& entry, Changes& changes) {
  const AttemptKey attempt{job.id, job.attempts};
  if (job.state == JobState::running)
    changes.push_back(storage::AttemptEnded{attempt, AttemptEnd::succeeded, "", unix_ms()});
  changes.push_back(storage::JobSucceeded{attempt, outcome, unix_ms()});
  entry.phase = JobPhase::succeeded;
}

bool left_a_checkpoint(const storage::RunDirectory& run, const AttemptKey& attempt) {
  std::error_code ignored;
  const auto folder = run.checkpoints(attempt);
  return std::filesystem::exists(folder, ignored) && !std::filesystem::is_empty(folder, ignored);
}

void continue_from(const storage::StoredJob& job, const storage::RunDirectory& run, bool retry_failed,
                   JobHistory& entry, Changes& changes) {
  const AttemptKey attempt{job.id, job.attempts};
  std::error_code ignored;
  switch (job.state) {
    case JobState::failed:
    case JobState::cancelled:
      if (retry_failed) {
        entry.failures = entry.losses = 0;
        entry.error.clear();
        changes.push_back(storage::JobReset{job.id, unix_ms()});
      } else {
        entry.phase = job.state == JobState::failed ? JobPhase::failed : JobPhase::cancelled;
      }
      break;
    case JobState::running:
      // The coordinator died over it. What never began, or got as far as a checkpoint, is no loss of the job's; the
      // reactor records the end of the attempt.
      entry.open = std::filesystem::exists(run.staging(attempt), ignored) && !left_a_checkpoint(run, attempt)
                       ? JobHistory::Open::begun
                       : JobHistory::Open::queued;
      break;
    case JobState::pending:
    case JobState::succeeded:
      break;
  }
}

bool is_to_run(JobPhase phase) {
  return phase != JobPhase::succeeded && phase != JobPhase::failed && phase != JobPhase::cancelled;
}

/// From the last job of the plan to the first, so that what a job that runs again needs is looked at after it.
void find_lost_artifacts(const Plan& plan, const std::map<JobId, const storage::StoredJob*>& known,
                         const storage::RunDirectory& run, std::map<JobId, JobHistory>& history, Changes& changes) {
  std::set<JobId> needed;
  for (auto job = plan.jobs.rbegin(); job != plan.jobs.rend(); ++job) {
    JobHistory& entry = history.at(job->id);
    const auto before = known.find(job->id);
    std::error_code ignored;
    if (entry.phase == JobPhase::succeeded && needed.contains(job->id) && before != known.end() &&
        before->second->outcome && before->second->outcome->has_artifact &&
        !std::filesystem::exists(run.artifact(job->id) / storage::kManifestName, ignored)) {
      spdlog::warn("the artifact of job {} ({}) is gone, and another job needs it: the job runs again",
                   job->id.hex(), job->title);
      entry.phase = JobPhase::waiting;
      entry.failures = entry.losses = 0;
      changes.push_back(storage::ArtifactLost{job->id, unix_ms()});
    }
    if (!is_to_run(entry.phase)) continue;
    needed.insert(job->inputs.begin(), job->inputs.end());
    if (job->continues) needed.insert(*job->continues);
  }
}

/// A coordinator that dies after it has recorded a result does not come to remove what the attempts left.
void clear_staging(const storage::RunDirectory& run, const std::map<JobId, JobHistory>& history) {
  for (const AttemptKey& attempt : run.staged_attempts()) {
    const auto job = history.find(attempt.job);
    if (job == history.end() || job->second.phase != JobPhase::succeeded) continue;
    if (const Status removed = run.remove_staging(attempt.job); !removed)
      spdlog::warn("{}", removed.error().message);
  }
}

}  // namespace

Result<std::map<JobId, JobHistory>> resume(storage::Store& store, const storage::RunDirectory& run,
                                           const Plan& plan, bool retry_failed) {
  const auto stored = store.load_jobs();
  if (!stored) return stored.error();
  std::map<JobId, const storage::StoredJob*> known;
  for (const auto& job : *stored)
    if (job.in_plan) known[job.id] = &job;

  std::vector<std::string> rejected;
  const auto unrecorded = run.unrecorded_artifacts(
      [&](const JobId& id) {
        const auto found = known.find(id);
        return found == known.end() || found->second->state == JobState::succeeded;
      },
      &rejected);
  for (const std::string& line : rejected) spdlog::warn("{}", line);
  std::map<JobId, const storage::Manifest*> adoptable;
  for (const storage::Manifest& manifest : unrecorded) adoptable[manifest.job] = &manifest;

  Changes changes;
  std::map<JobId, JobHistory> history;
  for (const Job& job : plan.jobs) {
    JobHistory& entry = history[job.id];
    const auto found = known.find(job.id);
    if (found == known.end()) continue;
    const storage::StoredJob& before = *found->second;
    entry.attempts = before.attempts;
    entry.failures = before.failures;
    entry.losses = before.losses;
    entry.error = before.error;
    if (before.state == JobState::succeeded)
      entry.phase = JobPhase::succeeded;
    else if (const auto whole = adoptable.find(job.id); whole != adoptable.end() && before.attempts > 0)
      adopt(before, whole->second->outcome, entry, changes);
    else
      continue_from(before, run, retry_failed, entry, changes);
  }
  find_lost_artifacts(plan, known, run, history, changes);
  if (!changes.empty()) {
    crash_point("resume.before_record");
    if (const Status applied = store.apply(changes); !applied) return applied.error();
    crash_point("resume.recorded");
  }
  clear_staging(run, history);
  return history;
}

}  // namespace finesweep::coordinator
