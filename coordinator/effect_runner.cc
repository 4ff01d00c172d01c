#include "coordinator/effect_runner.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "coordinator/unix_time.h"
#include "jobs/crash_point.h"
#include "jobs/messages.h"

namespace finesweep::coordinator {
namespace {

using EndReason = RecordAttemptEnd::Reason;

struct ReasonNames {
  AttemptEnd stored;
  const char* shown;
};

ReasonNames names_of(EndReason reason) {
  switch (reason) {
    case EndReason::failed:
      return {AttemptEnd::failed, "failed"};
    case EndReason::interrupted:
      return {AttemptEnd::interrupted, "stopped"};
    case EndReason::lost:
      return {AttemptEnd::lost, "lost"};
    case EndReason::cancelled:
      return {AttemptEnd::cancelled, "cancelled"};
    case EndReason::superseded:
      return {AttemptEnd::superseded, "moved"};
  }
  return {AttemptEnd::failed, ""};
}

}  // namespace

EffectRunner::EffectRunner(storage::Store& store, const storage::RunDirectory& run, WorkerLink& link,
                           const WorkersByRank& workers, SweepView& view,
                           const std::function<void(const Json&)>& show)
    : store_(store), run_(run), link_(link), workers_(workers), view_(view), show_(show), publisher_(run) {}

void EffectRunner::remark(Json event) {
  show_(event);
  remarks_.push_back(storage::EventLogged{std::move(event), unix_ms()});
}

void EffectRunner::note_start(const WorkerId& worker, const AttemptKey& attempt) {
  const auto out = out_.find(attempt);
  if (out == out_.end() || !started_.emplace(attempt, now()).second) return;
  Json record{{"event", "attempt_started"},
              {"job", attempt.job},
              {"title", view_.title(attempt.job)},
              {"attempt", attempt.number},
              {"worker", to_string(worker)}};
  if (out->second > 1) record["pack"] = out->second;
  show_(record);
}

Result<std::vector<Event>> EffectRunner::carry_out(const Reactor& reactor, const std::vector<Effect>& effects) {
  Round round;
  round.changes = std::exchange(remarks_, {});
  for (const Effect& effect : effects) std::visit([&](const auto& e) { add(reactor, e, round); }, effect);
  return commit(std::move(round));
}

Result<std::vector<Event>> EffectRunner::record_published(const Reactor& reactor) {
  Round round;
  for (const Publisher::Done& done : publisher_.take()) {
    // Where an earlier attempt's artifact stood already, its outcome is the job's.
    if (done.manifest)
      add_success(reactor, done.attempt, done.manifest->outcome, round);
    else
      round.answers.push_back(PublishFailed{done.attempt, done.manifest.error().message});
  }
  return commit(std::move(round));
}

Result<std::vector<Event>> EffectRunner::commit(Round round) {
  if (!round.changes.empty()) {
    if (const Status applied = store_.apply(round.changes); !applied) return applied.error();
  }
  if (!round.sends.empty()) crash_point("round.recorded");
  for (auto& [rank, frame] : round.sends) link_.send(rank, std::move(frame));
  if (!round.sends.empty()) crash_point("round.sent");
  for (const Json& record : round.shown) show_(record);
  return std::move(round.answers);
}

void EffectRunner::clear_staging() {
  for (const JobId& job : std::exchange(recorded_, {})) {
    crash_point("staging.before_clear");
    if (const Status removed = run_.remove_staging(job); !removed) spdlog::warn("{}", removed.error().message);
    crash_point("staging.cleared");
  }
}

void EffectRunner::add(const Reactor&, const RecordAttempt& e, Round& round) {
  out_[e.attempt] = e.pack_jobs;
  const auto worker = workers_.find(e.worker.rank);
  const std::string host = worker == workers_.end() ? "" : worker->second.info.host;
  round.changes.push_back(
      storage::AttemptStarted{e.attempt, e.worker.rank, host, unix_ms(), e.pack_jobs, e.pack_first});
}

void EffectRunner::add(const Reactor&, const RecordJoin& e, Round& round) {
  out_[e.attempt] = e.pack_jobs;
  round.changes.push_back(storage::EventLogged{{{"event", "attempt_joined"},
                                                {"job", e.attempt.job},
                                                {"attempt", e.attempt.number},
                                                {"pack", e.pack_jobs},
                                                {"pack_member", e.member}},
                                               unix_ms()});
}

void EffectRunner::add(const Reactor&, const RecordAttemptEnd& e, Round& round) {
  out_.erase(e.attempt);
  started_.erase(e.attempt);
  const ReasonNames reason = names_of(e.reason);
  round.changes.push_back(storage::AttemptEnded{e.attempt, reason.stored, e.error, unix_ms()});
  round.changes.push_back(storage::JobCounters{e.attempt.job, e.failures, e.losses});
  round.shown.push_back({{"event", "attempt_ended"},
                         {"job", e.attempt.job},
                         {"title", view_.title(e.attempt.job)},
                         {"attempt", e.attempt.number},
                         {"reason", reason.shown},
                         {"error", e.error}});
}

void EffectRunner::add(const Reactor&, const RecordJobEnd& e, Round& round) {
  if (e.cancelled)
    round.changes.push_back(storage::JobCancelled{e.job, e.error, unix_ms()});
  else
    round.changes.push_back(storage::JobFailed{e.job, e.error, unix_ms()});
  ++finished_jobs;
  round.shown.push_back({{"event", e.cancelled ? "job_cancelled" : "job_failed"},
                         {"job", e.job},
                         {"title", view_.title(e.job)},
                         {"error", e.error}});
}

void EffectRunner::add(const Reactor& reactor, const Publish& e, Round& round) {
  if (e.outcome.has_artifact)
    publisher_.submit(e.attempt);
  else
    add_success(reactor, e.attempt, e.outcome, round);
}

void EffectRunner::add_success(const Reactor& reactor, const AttemptKey& attempt, const Outcome& outcome,
                               Round& round) {
  round.changes.push_back(storage::AttemptEnded{attempt, AttemptEnd::succeeded, "", unix_ms()});
  round.changes.push_back(storage::JobSucceeded{attempt, outcome, unix_ms()});
  out_.erase(attempt);
  ++finished_jobs;
  double seconds = 0;
  if (const auto begun = started_.find(attempt); begun != started_.end()) {
    seconds = std::chrono::duration<double>(now() - begun->second).count();
    started_.erase(begun);
  }
  if (const auto measured = outcome.metrics.find("seconds"); measured != outcome.metrics.end())
    seconds = measured->second;
  // The worker's time, of which it had a share.
  const Json& environment = outcome.environment;
  const int pack = environment.is_object() ? environment.value("pack", 1) : 1;
  view_.learn_pace(reactor.job(attempt.job).kind, seconds / std::max(1, pack));
  round.shown.push_back({{"event", "job_succeeded"},
                         {"job", attempt.job},
                         {"title", view_.title(attempt.job)},
                         {"seconds", seconds},
                         {"done", finished_jobs},
                         {"jobs", view_.jobs()}});
  round.answers.push_back(Published{attempt});
  recorded_.push_back(attempt.job);
}

template <typename Message>
void EffectRunner::send(const WorkerId& worker, const Message& message, Round& round) {
  const auto found = workers_.find(worker.rank);
  if (found == workers_.end() || found->second.id != worker) return;
  round.sends.emplace_back(worker.rank, encode(message));
}

void EffectRunner::add(const Reactor& reactor, const SendDispatch& e, Round& round) {
  Dispatch dispatch{e.worker, {}};
  for (const AttemptKey& attempt : e.pack)
    dispatch.pack.push_back(
        {reactor.job(attempt.job), attempt.number, e.devices, reactor.joining_traits(attempt.job)});
  send(e.worker, dispatch, round);
}
void EffectRunner::add(const Reactor&, const SendLend& e, Round& round) {
  send(e.worker, Lend{}, round);
}
void EffectRunner::add(const Reactor&, const SendAcknowledge& e, Round& round) {
  if (!e.accepted)
    round.changes.push_back(storage::EventLogged{{{"event", "result_refused"},
                                                  {"job", e.attempt.job},
                                                  {"attempt", e.attempt.number},
                                                  {"worker", to_string(e.worker)}},
                                                 unix_ms()});
  send(e.worker, Acknowledge{e.attempt, e.accepted}, round);
}
void EffectRunner::add(const Reactor&, const SendRevoke& e, Round& round) {
  send(e.worker, Revoke{e.attempt}, round);
}
void EffectRunner::add(const Reactor&, const SendStop& e, Round& round) {
  send(e.worker, Stop{}, round);
}
void EffectRunner::add(const Reactor&, const SendRejoin& e, Round& round) {
  round.sends.emplace_back(e.worker.rank, encode(Rejoin{}));
}

}  // namespace finesweep::coordinator
