#include "coordinator/reactor.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "coordinator/reactor_state.h"

namespace finesweep::coordinator {

using EndReason = RecordAttemptEnd::Reason;

namespace {

/// The name of a number in the outcome that is none: it could be neither stored nor compared.
std::optional<std::string> not_finite(const Outcome& outcome) {
  for (const auto& [name, value] : outcome.metrics)
    if (!std::isfinite(value)) return name;
  for (const HistoryPoint& point : outcome.history)
    if (!std::isfinite(point.value) || !std::isfinite(point.epoch)) return point.metric;
  return std::nullopt;
}

}  // namespace

/// What to do on which event.
struct Reactor::Impl : ReactorState {
  using ReactorState::ReactorState;

  void on(const WorkerJoined& event, Instant now) {
    const auto earlier = worker_of_rank.find(event.worker.rank);
    if (earlier != worker_of_rank.end()) {
      if (workers.at(earlier->second).id.incarnation >= event.worker.incarnation) return;
      give_up(earlier->second, "the worker started again", now);
    }
    add_worker(event.worker, event.info, now);
  }

  void on(const WorkerLost& event, Instant now) {
    const int number = number_of(event.worker);
    if (number >= 0) give_up(number, event.reason, now);
  }

  void on(const HeartbeatArrived& event, Instant now) {
    const int number = number_of(event.worker);
    if (number < 0) {
      tell_to_rejoin(event.worker, now);
      return;
    }
    Worker& worker = workers.at(number);
    worker.heard = now;
    for (const auto& [attempt, progress] : event.held) {
      if (const auto revoked = worker.unconfirmed.find(attempt); revoked != worker.unconfirmed.end()) {
        revoked->second = now + options.lease;
        effects.emplace_back(SendRevoke{event.worker, attempt});  // again: the first one may not have been sent
        continue;
      }
      const int job = jobs.find(attempt.job);
      const bool newest = job >= 0 && attempt.number == jobs[job].attempts;
      if (newest && jobs[job].phase == JobPhase::publishing) continue;
      const auto held = newest ? out.find(job) : out.end();
      if (held == out.end() || held->second.worker != number) {
        effects.emplace_back(SendRevoke{event.worker, attempt});
        continue;
      }
      held->second.lease_end = now + options.lease;
      held->second.progress = progress;
      if (progress.done > 0) policy.mark_begun(job);
    }
    if (worker.leaving_since && !stopping && !ended && now - *worker.leaving_since >= options.lease) {
      worker.leaving_since.reset();
      policy.set_leaving(number, false);
    }
  }

  void on(const AttemptFinished& event, Instant now) {
    const int number = number_of(event.worker);
    const int job = jobs.find(event.attempt.job);
    if (number >= 0) {
      workers.at(number).heard = now;
      confirm(number, event.attempt);
    }

    const bool newest = job >= 0 && event.attempt.number == jobs[job].attempts;
    if (newest && jobs[job].phase == JobPhase::publishing) return;  // answered when that is over
    if (newest && jobs[job].phase == JobPhase::succeeded) {
      effects.emplace_back(SendAcknowledge{event.worker, event.attempt, true});
      return;
    }
    const auto held = newest ? out.find(job) : out.end();
    if (held == out.end() || held->second.worker != number) {
      effects.emplace_back(SendAcknowledge{event.worker, event.attempt, false});
      return;
    }

    const Outcome& outcome = event.outcome;
    if (outcome.kind == OutcomeKind::failed && event.crashed && policy.pack_of(job).size() > 1) {
      halve_pack(job, outcome.error, now);
    } else {
      policy.finished(job, now);
      out.erase(job);
      switch (outcome.kind) {
        case OutcomeKind::succeeded:
          if (const auto name = not_finite(outcome)) {
            charge_failure(job, "its result '" + *name + "' is not a finite number: see its log", true);
            break;
          }
          jobs.set_phase(job, JobPhase::publishing);
          publisher[job] = event.worker;
          effects.emplace_back(Publish{event.attempt, outcome});
          return;
        case OutcomeKind::interrupted:
          record_end(job, EndReason::interrupted, outcome.error);
          make_ready(job);
          if (!stopping) set_leaving(number, now);
          break;
        case OutcomeKind::failed:
          charge_failure(job, outcome.error, outcome.permanent);
          break;
      }
    }
    effects.emplace_back(SendAcknowledge{event.worker, event.attempt, true});
  }

  void on(const AttemptRevoked& event, Instant now) {
    const int number = number_of(event.worker);
    if (number < 0) return;
    workers.at(number).heard = now;
    confirm(number, event.attempt);
  }

  void on(const AttemptsJoined& event, Instant now) {
    const int number = number_of(event.worker);
    if (number < 0) return;
    workers.at(number).heard = now;
    const auto held = [&](const AttemptKey& attempt) {
      const int job = jobs.find(attempt.job);
      const auto found = job >= 0 && attempt == newest(job) ? out.find(job) : out.end();
      return found != out.end() && found->second.worker == number ? job : -1;
    };
    int member = -1;  // none: all were revoked meanwhile, and those that joined are their own pack
    for (const AttemptKey& attempt : event.pack) member = std::max(member, held(attempt));
    if (member < 0) return;
    for (const AttemptKey& attempt : event.joined) {
      const int job = held(attempt);
      if (job < 0 || job == member || !policy.join(job, member, now)) continue;
      const auto together = static_cast<int>(policy.pack_of(member).size());
      effects.emplace_back(RecordJoin{attempt, jobs.job(member).id, together});
    }
  }

  /// The runner died under a pack of several jobs: nobody knows which of them is to blame. All that are still out
  /// of it end, uncharged, and run again in two packs of half as many; reports about the others come too late.
  void halve_pack(int crashed_job, const std::string& error, Instant now) {
    const std::vector<int> pack = policy.pack_of(crashed_job);
    const int first_half = next_group++, second_half = next_group++;
    for (std::size_t i = 0; i < pack.size(); ++i) {
      const int job = pack[i];
      policy.finished(job, now);
      out.erase(job);
      record_end(job, EndReason::failed, error);
      policy.set_group(job, 2 * i < pack.size() ? first_half : second_half);
      make_ready(job);
    }
  }

  void on(const Published& event, Instant now) {
    const int job = jobs.find(event.attempt.job);
    if (job < 0 || jobs[job].phase != JobPhase::publishing || event.attempt != newest(job)) return;
    jobs.set_phase(job, JobPhase::succeeded);
    answer_publisher(job, true);
    jobs.release_dependents(job, [this](int dependent) { make_ready(dependent); });
  }

  void on(const PublishFailed& event, Instant now) {
    const int job = jobs.find(event.attempt.job);
    if (job < 0 || jobs[job].phase != JobPhase::publishing || event.attempt != newest(job)) return;
    charge_failure(job, event.error, false);
    answer_publisher(job, false);
  }

  void answer_publisher(int job, bool accepted) {
    const auto entry = publisher.extract(job);
    if (find_worker(entry.mapped())) effects.emplace_back(SendAcknowledge{entry.mapped(), newest(job), accepted});
  }

  void on(const StopRequested&, Instant now) {
    if (std::exchange(stopping, true)) return;
    for (auto& [number, worker] : workers) {
      // The rest of its queue it will not begin any more.
      const auto queue = policy.queue(number);
      if (!queue.empty() && policy.begun(queue.front())) policy.mark_begun(queue.front());
      set_leaving(number, now);
      tell_to_stop(number);
    }
  }

  void on(const CancelRequested& event, Instant now) {
    for (const JobId& id : event.jobs) {
      const int job = jobs.find(id);
      if (job < 0) continue;
      switch (jobs[job].phase) {
        case JobPhase::publishing:  // it may still succeed
          jobs[job].cancel_requested = true;
          continue;
        case JobPhase::succeeded:
        case JobPhase::failed:
        case JobPhase::cancelled:
          continue;
        case JobPhase::running:
          revoke(job, now);
          record_end(job, EndReason::cancelled, "cancelled");
          break;
        case JobPhase::ready:
          policy.remove_ready(job);
          break;
        case JobPhase::waiting:
          break;
      }
      end_job(job, JobPhase::cancelled, "cancelled");
    }
  }

  void on(const Tick&, Instant now) {}

  // ---- what follows from every event ----

  void dispatch(Instant now) {
    while (!stopping && !ended) {
      if (const auto choice = policy.next(now)) {
        SendDispatch dispatch{workers.at(choice->worker).id, {}, {}};
        if (!choice->lent.empty()) dispatch.devices.push_back(workers.at(choice->worker).device);
        for (const int lent : choice->lent) {
          dispatch.devices.push_back(workers.at(lent).device);
          effects.emplace_back(SendLend{workers.at(lent).id});
        }
        for (int job : choice->jobs) {
          ++jobs[job].attempts;
          jobs.set_phase(job, JobPhase::running);
          out[job] = {choice->worker, now + options.lease, {}};
          effects.emplace_back(RecordAttempt{newest(job), dispatch.worker, static_cast<int>(choice->jobs.size()),
                                             jobs.job(choice->jobs.front()).id});
          dispatch.pack.push_back(newest(job));
        }
        effects.emplace_back(std::move(dispatch));
      } else if (const auto theft = policy.theft(now)) {
        for (int job : theft->jobs) {
          revoke(job, now);
          record_end(job, EndReason::superseded, "");
          make_ready(job);
        }
      } else {
        break;
      }
    }
  }

  void end_if_over() {
    const bool over = jobs.all_ended() || (stopping && out.empty() && publisher.empty());
    if (!over || ended) return;
    ended = true;
    for (const auto& [rank, number] : worker_of_rank) tell_to_stop(number);
    effects.emplace_back(SweepEnded{});
  }
};

Reactor::Reactor(ReactorOptions options, const std::vector<Job>& jobs, const std::map<JobId, JobHistory>& history,
                 const std::vector<PackTraits>& packing)
    : impl_(std::make_unique<Impl>(options, jobs, history, packing)) {}

Reactor::~Reactor() = default;

std::vector<Effect> Reactor::handle(const Event& event, Instant now) {
  now = std::max(now, impl_->last_now);
  impl_->last_now = now;
  impl_->expire_leases(now);
  std::visit([&](const auto& alternative) { impl_->on(alternative, now); }, event);
  impl_->dispatch(now);
  impl_->end_unplaceable(now);
  impl_->end_if_over();
  return std::exchange(impl_->effects, {});
}

const Job& Reactor::job(const JobId& id) const {
  const int job = impl_->jobs.find(id);
  if (job < 0) throw std::out_of_range("no job " + id.hex());
  return impl_->jobs.job(job);
}

PackTraits Reactor::joining_traits(const JobId& id) const {
  const int job = impl_->jobs.find(id);
  if (job < 0) throw std::out_of_range("no job " + id.hex());
  return impl_->policy.joining_traits(job);
}

JobView Reactor::view(const JobId& id) const {
  const int job = impl_->jobs.find(id);
  if (job < 0) throw std::out_of_range("no job " + id.hex());
  const auto& state = impl_->jobs[job];
  return {state.phase, state.attempts, state.failures, state.losses, impl_->jobs.error(job)};
}

bool Reactor::knows(const WorkerId& worker) const {
  return impl_->find_worker(worker) != nullptr;
}

Counts Reactor::counts() const {
  return impl_->jobs.counts();
}

std::vector<AttemptView> Reactor::attempts() const {
  std::vector<AttemptView> views;
  for (const auto& [rank, number] : impl_->worker_of_rank) {
    for (int job : impl_->policy.queue(number)) {
      const auto& out = impl_->out.at(job);
      views.push_back({impl_->newest(job), impl_->workers.at(number).id, out.lease_end, out.progress,
                       impl_->policy.begun(job), impl_->policy.pack_number(job)});
    }
  }
  return views;
}

bool Reactor::ended() const {
  return impl_->ended;
}

std::optional<Instant> Reactor::next_deadline() const {
  if (impl_->deadlines.empty()) return std::nullopt;
  const Instant lease = impl_->deadlines.begin()->first;
  if (!impl_->unplaceable_since) return lease;
  return std::min(lease, *impl_->unplaceable_since + impl_->unplaceable_patience());
}

void Reactor::sanity_check() const {
  impl_->sanity_check();
}

}  // namespace finesweep::coordinator
