#include "coordinator/sweep_view.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace finesweep::coordinator {

namespace {

/// Past this many open jobs the mean over all kinds has to do.
constexpr std::int64_t kMostJobsCountedOneByOne = 20000;

bool has_begun(const AttemptView& attempt) {
  return attempt.progress.done > 0 || !attempt.progress.phase.empty();
}

/// What a worker runs at a time: one attempt or a pack of several.
struct RunningPack {
  WorkerId worker;
  std::vector<const AttemptView*> attempts;  // that have begun
  /// The one that has most before it: when it is done, so is the pack.
  const AttemptView* last = nullptr;
};

double share_done(const Progress& progress) {
  return progress.total > 0 ? static_cast<double>(progress.done) / static_cast<double>(progress.total) : 0;
}

std::vector<RunningPack> running_packs(const std::vector<AttemptView>& attempts) {
  std::vector<RunningPack> packs;
  std::int64_t number = 0;
  for (const AttemptView& attempt : attempts) {
    if (!has_begun(attempt)) continue;
    if (packs.empty() || attempt.pack != number) packs.push_back({attempt.worker, {}, nullptr});
    number = attempt.pack;
    RunningPack& pack = packs.back();
    pack.attempts.push_back(&attempt);
    if (!pack.last || share_done(attempt.progress) < share_done(pack.last->progress)) pack.last = &attempt;
  }
  return packs;
}

}  // namespace

SweepView::SweepView(const Plan& plan) : plan_(plan) {
  int repeats = 0;
  for (const Trial& trial : plan.trials) repeats = std::max(repeats, trial.repeat + 1);
  for (const Trial& trial : plan.trials) {
    for (const TrialStep& step : trial.steps) {
      const auto [entry, is_new] = titles_.try_emplace(step.job);
      if (!is_new) continue;
      entry->second = trial.label;
      if (repeats > 1) entry->second += " #" + std::to_string(trial.repeat);
      entry->second += " " + step.name;
    }
  }
  for (const Job& job : plan.jobs) titles_.try_emplace(job.id, job.title);
}

void SweepView::learn_pace(StepKind kind, double seconds) {
  Pace& pace = pace_[kind];
  pace.seconds += seconds;
  ++pace.jobs;
}

std::optional<double> SweepView::seconds_left(const Reactor& reactor, std::size_t workers) const {
  if (pace_.empty()) return std::nullopt;
  Pace all;
  for (const auto& [kind, pace] : pace_) {
    all.seconds += pace.seconds;
    all.jobs += pace.jobs;
  }
  const auto expected = [&](StepKind kind) {
    const auto found = pace_.find(kind);
    const Pace& pace = found == pace_.end() ? all : found->second;
    return pace.seconds / pace.jobs;
  };
  double work = 0;
  const Counts counts = reactor.counts();
  if (counts.waiting + counts.ready > kMostJobsCountedOneByOne) {
    work = static_cast<double>(counts.waiting + counts.ready) * all.seconds / all.jobs;
  } else if (counts.waiting + counts.ready > 0) {
    for (const Job& job : plan_.jobs) {
      const JobPhase phase = reactor.view(job.id).phase;
      if (phase == JobPhase::waiting || phase == JobPhase::ready) work += expected(job.kind);
    }
  }
  for (const AttemptView& attempt : reactor.attempts()) {
    work += expected(reactor.job(attempt.key.job).kind) * (1 - std::min(share_done(attempt.progress), 1.0));
  }
  return work / static_cast<double>(std::max<std::size_t>(1, workers));
}

Json SweepView::progress_record(const Reactor& reactor, std::size_t workers) const {
  Json running = Json::array();
  const std::vector<AttemptView> attempts = reactor.attempts();
  for (const RunningPack& pack : running_packs(attempts)) {
    const AttemptView& attempt = *pack.last;
    Json entry{{"job", attempt.key.job},
               {"title", title(attempt.key.job)},
               {"done", attempt.progress.done},
               {"total", attempt.progress.total},
               {"phase", attempt.progress.phase}};
    if (std::isfinite(attempt.progress.loss)) entry["loss"] = attempt.progress.loss;
    if (pack.attempts.size() > 1) entry["pack"] = pack.attempts.size();
    running.push_back(std::move(entry));
  }
  const Counts counts = reactor.counts();
  Json record{{"event", "progress"},
              {"running", std::move(running)},
              {"done", counts.succeeded + counts.failed + counts.cancelled},
              {"jobs", plan_.jobs.size()}};
  if (const auto left = seconds_left(reactor, workers)) record["seconds_left"] = *left;
  return record;
}

storage::StatusSnapshot SweepView::snapshot(const Reactor& reactor,
                                            const std::map<int, WorkerEntry>& workers) const {
  storage::StatusSnapshot status;
  status.sweep = plan_.name;
  const Counts counts = reactor.counts();
  status.jobs.pending = counts.waiting + counts.ready;
  status.jobs.running = counts.running + counts.publishing;
  status.jobs.succeeded = counts.succeeded;
  status.jobs.failed = counts.failed;
  status.jobs.cancelled = counts.cancelled;
  for (const Trial& trial : plan_.trials) {
    bool failed = false, cancelled = false, running = false, complete = true;
    for (const TrialStep& step : trial.steps) {
      const JobPhase phase = reactor.view(step.job).phase;
      failed |= phase == JobPhase::failed;
      cancelled |= phase == JobPhase::cancelled;
      running |= phase == JobPhase::running || phase == JobPhase::publishing;
      complete &= phase == JobPhase::succeeded;
    }
    auto& trials = status.trials;
    ++(failed      ? trials.failed
       : cancelled ? trials.cancelled
       : complete  ? trials.succeeded
       : running   ? trials.running
                   : trials.pending);
  }
  for (const auto& [rank, worker] : workers) {
    storage::StatusSnapshot::Worker entry;
    entry.rank = rank;
    entry.host = worker.info.host;
    entry.device = worker.info.device;
    status.workers.push_back(entry);
  }
  const std::vector<AttemptView> attempts = reactor.attempts();
  for (const RunningPack& pack : running_packs(attempts)) {
    for (auto& entry : status.workers) {
      if (entry.rank != pack.worker.rank) continue;
      entry.attempt = pack.last->key;
      entry.title = title(pack.last->key.job);
      entry.progress = pack.last->progress;
      entry.pack = static_cast<int>(pack.attempts.size());
    }
  }
  status.seconds_left = seconds_left(reactor, workers.size());
  return status;
}

}  // namespace finesweep::coordinator
