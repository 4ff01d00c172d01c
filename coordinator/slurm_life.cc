#include "coordinator/slurm_life.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "storage/store.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;
using storage::StatusSnapshot;

namespace {

/// N of a folder "step-N".
std::optional<std::int64_t> step_of(const std::string& name) {
  constexpr std::string_view prefix = "step-";
  if (!name.starts_with(prefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, step);
  if (error != std::errc() || stop != end) return std::nullopt;
  return step;
}

}  // namespace

Harvest take_stock(const storage::RunDirectory& run) {
  Harvest harvest;
  if (run.holds_run())
    if (const auto store = storage::Store::open_read_only(run.path()))
      if (const auto jobs = store->load_jobs())
        harvest.results = std::count_if(jobs->begin(), jobs->end(),
                                        [](const auto& job) { return job.state == JobState::succeeded; });
  for (const AttemptKey& attempt : run.staged_attempts()) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(run.checkpoints(attempt), ignored)) {
      const auto step = step_of(entry.path().filename().string());
      if (!step) continue;
      auto& highest = harvest.checkpoints.try_emplace(attempt.job.hex(), *step).first->second;
      highest = std::max(highest, *step);
    }
  }
  return harvest;
}

bool brought_something(const SlurmLife& life, const Harvest& now) {
  if (now.results > life.results_before) return true;
  return std::any_of(now.checkpoints.begin(), now.checkpoints.end(), [&](const auto& checkpoint) {
    const auto before = life.checkpoints_before.find(checkpoint.first);
    // A checkpoint of step 0 holds nothing that a new start would not.
    return checkpoint.second > (before == life.checkpoints_before.end() ? 0 : before->second);
  });
}

Verdict judge_life(const SlurmLife& life, const std::optional<StatusSnapshot>& status, const Harvest& now,
                   int srun_code) {
  Verdict verdict;
  const bool spoke = status && status->slurm_job == life.job && status->heartbeat_ms != life.heartbeat_before_ms;
  if (!spoke) {
    verdict.exit_code = srun_code > 0 && srun_code <= 4 ? srun_code : 4;
    verdict.message = "the coordinator ended before it began the sweep (srun: exit code " +
                      std::to_string(srun_code) + "); not requeued. See the messages above.";
    return verdict;
  }
  const bool decided = status->state != StatusSnapshot::State::running && status->exit_code;
  if (decided && status->state != StatusSnapshot::State::interrupted) {
    verdict.exit_code = *status->exit_code;
    return verdict;
  }
  const std::string what = decided ? "the sweep was interrupted" : "the coordinator died";
  verdict.exit_code = 3;
  verdict.requeue = brought_something(life, now);
  verdict.message = verdict.requeue ? what + "; the job is requeued and goes on with it"
                                    : what +
                                          ", and this life brought neither a result nor a checkpoint: not "
                                          "requeued. Give it more time (--time), or see why nothing comes "
                                          "about; then submit it again.";
  return verdict;
}

}  // namespace finesweep::coordinator
