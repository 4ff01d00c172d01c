#include "coordinator/reactor_state.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace finesweep::coordinator {

using EndReason = RecordAttemptEnd::Reason;

ReactorState::ReactorState(ReactorOptions options, const std::vector<Job>& plan,
                           const std::map<JobId, JobHistory>& history, const std::vector<PackTraits>& packing)
    : options(options),
      jobs(plan, history),
      policy({options.backlog, options.max_backlog_jobs, options.max_pack_jobs, options.max_pack_jobs_on_cpu},
             jobs.traits(packing)) {
  recover(history);
}

const ReactorState::Worker* ReactorState::find_worker(const WorkerId& id) const {
  const auto number = worker_of_rank.find(id.rank);
  if (number == worker_of_rank.end()) return nullptr;
  const Worker& worker = workers.at(number->second);
  return worker.id == id ? &worker : nullptr;
}

int ReactorState::number_of(const WorkerId& id) const {
  return find_worker(id) ? worker_of_rank.at(id.rank) : -1;
}

// ---- jobs ----

void ReactorState::make_ready(int job) {
  jobs.set_phase(job, JobPhase::ready);
  policy.add_ready(job);
}

void ReactorState::record_end(int job, EndReason reason, std::string error) {
  effects.emplace_back(
      RecordAttemptEnd{newest(job), reason, std::move(error), jobs[job].failures, jobs[job].losses});
}

void ReactorState::end_job(int job, JobPhase phase, const std::string& error) {
  const bool cancelled = phase == JobPhase::cancelled;
  const auto end = [&](int ended_job, std::string text) {
    jobs.set_phase(ended_job, phase);
    effects.emplace_back(RecordJobEnd{jobs.job(ended_job).id, cancelled, text});
    jobs.set_error(ended_job, std::move(text));
  };
  end(job, error);
  jobs.visit_dependents(job, [&](int dependent) { end(dependent, reason_of_dependents(job)); });
}

std::string ReactorState::reason_of_dependents(int job) const {
  const std::string& title = jobs.job(job).title;
  const std::string needs = "needs " + (title.empty() ? std::string(step_kind_name(jobs.job(job).kind)) : title);
  if (jobs[job].phase == JobPhase::cancelled) return needs + " which was cancelled";
  return needs + " which failed: " + jobs.error(job);
}

std::string ReactorState::losses_text() const {
  const auto lease_s = std::chrono::duration_cast<std::chrono::seconds>(options.lease).count();
  return "its worker was lost " + std::to_string(options.max_losses) +
         " times (the process or its host ended, or did not answer for " + std::to_string(lease_s) +
         " s): if memory ran out there, make batch_size or sequence_length smaller or use fewer workers, then "
         "run the sweep again";
}

/// After a loss that may have been one too many. The job is with nobody.
void ReactorState::go_on_after_loss(int job, bool counted) {
  if (counted && jobs[job].losses >= options.max_losses) {
    end_job(job, JobPhase::failed, losses_text());
  } else {
    make_ready(job);
  }
}

void ReactorState::charge_failure(int job, const std::string& error, bool permanent) {
  ++jobs[job].failures;
  record_end(job, EndReason::failed, error);
  if (jobs[job].cancel_requested) {
    end_job(job, JobPhase::cancelled, "cancelled");
  } else if (permanent || jobs[job].failures > jobs.job(job).retries) {
    end_job(job, JobPhase::failed, error.empty() ? "failed without a message: see its log" : error);
  } else {
    make_ready(job);
  }
}

/// What an earlier coordinator left: open attempts end, jobs that have what they need become ready, jobs that
/// need a failed one fail. The effects wait for the first event.
void ReactorState::recover(const std::map<JobId, JobHistory>& history) {
  for (int job = 0; job < jobs.size(); ++job) {
    const JobPhase phase = jobs[job].phase;
    if (phase == JobPhase::failed || phase == JobPhase::cancelled) {
      jobs.visit_dependents(job, [&](int dependent) {
        jobs.set_phase(dependent, phase);
        jobs.set_error(dependent, reason_of_dependents(job));
        effects.emplace_back(
            RecordJobEnd{jobs.job(dependent).id, phase == JobPhase::cancelled, jobs.error(dependent)});
      });
    }
    if (phase != JobPhase::waiting) continue;
    const auto past = history.find(jobs.job(job).id);
    const auto open = past == history.end() ? JobHistory::Open::no : past->second.open;
    const bool begun = open == JobHistory::Open::begun;
    if (begun) ++jobs[job].losses;
    if (open != JobHistory::Open::no) record_end(job, EndReason::lost, "the coordinator ended");
    if (jobs[job].phase == JobPhase::waiting && jobs[job].missing == 0) go_on_after_loss(job, begun);
  }
}

// ---- workers ----

Instant ReactorState::deadline(int number) const {
  Instant first = workers.at(number).heard + options.lease;
  for (int job : policy.queue(number)) first = std::min(first, out.at(job).lease_end);
  for (const auto& [attempt, until] : workers.at(number).unconfirmed) first = std::min(first, until);
  return first;
}

void ReactorState::list_deadline(int number) {
  Worker& worker = workers.at(number);
  deadlines.erase({worker.listed_deadline, number});
  worker.listed_deadline = deadline(number);
  deadlines.insert({worker.listed_deadline, number});
}

void ReactorState::add_worker(const WorkerId& id, const WorkerInfo& info, Instant now) {
  const int number = next_worker++;
  Worker& worker = workers[number];
  worker.id = id;
  worker.device = info.device;
  worker.heard = now;
  worker_of_rank[id.rank] = number;
  std::erase_if(told_to_rejoin, [&](const auto& told) { return told.first.rank == id.rank; });
  policy.add_worker(number, info.host, !info.device.starts_with("cuda"), info.memory_mb);
  if (const auto lent = lent_when_lost.extract(id.rank); lent && workers.contains(lent.mapped()))
    policy.lend_again(number, lent.mapped());
  list_deadline(number);
  if (stopping || ended) {
    set_leaving(number, now);
    tell_to_stop(number);
  }
}

void ReactorState::set_leaving(int number, Instant now) {
  workers.at(number).leaving_since = now;
  policy.set_leaving(number, true);
}

void ReactorState::tell_to_rejoin(const WorkerId& worker, Instant now) {
  const auto [told, is_new] = told_to_rejoin.emplace(worker, now);
  if (!is_new && now - told->second < options.lease) return;
  told->second = now;
  effects.emplace_back(SendRejoin{worker});
}

void ReactorState::tell_to_stop(int number) {
  Worker& worker = workers.at(number);
  if (std::exchange(worker.told_to_stop, true)) return;
  effects.emplace_back(SendStop{worker.id});
}

void ReactorState::revoke(int job, Instant now) {
  Worker& worker = workers.at(out.at(job).worker);
  effects.emplace_back(SendRevoke{worker.id, newest(job)});
  worker.unconfirmed[newest(job)] = now + options.lease;
  policy.set_unconfirmed(out.at(job).worker, static_cast<int>(worker.unconfirmed.size()));
  policy.withdraw(job, now);
  out.erase(job);
}

void ReactorState::confirm(int number, const AttemptKey& attempt) {
  auto& unconfirmed = workers.at(number).unconfirmed;
  if (unconfirmed.erase(attempt) > 0) policy.set_unconfirmed(number, static_cast<int>(unconfirmed.size()));
}

void ReactorState::give_up(int number, const std::string& reason, Instant now) {
  // When all are told to stop, who has lent its device has nothing to do and leaves first; the attempt is not its
  // own.
  if (const auto job = policy.job_on_lent(number); job && !stopping) {
    revoke(*job, now);
    ++jobs[*job].losses;
    record_end(*job, EndReason::lost, "one of its devices was lost: " + reason);
    go_on_after_loss(*job, true);
  }
  const std::vector<int> held = policy.queue(number);
  std::vector<bool> begun;
  for (int job : held) begun.push_back(policy.begun(job));
  for (std::size_t i = 0; i < held.size(); ++i) {
    const int job = held[i];
    policy.withdraw(job, now);
    out.erase(job);
    if (begun[i]) ++jobs[job].losses;
    // What only waited in its queue has lost nothing.
    record_end(job, begun[i] ? EndReason::lost : EndReason::superseded, begun[i] ? reason : "");
    go_on_after_loss(job, begun[i]);
  }
  const Worker& worker = workers.at(number);
  if (const int leader = policy.lent_to(number); leader >= 0) lent_when_lost[worker.id.rank] = leader;
  policy.remove_worker(number);
  deadlines.erase({worker.listed_deadline, number});
  worker_of_rank.erase(worker.id.rank);
  workers.erase(number);
}

void ReactorState::expire_leases(Instant now) {
  if (deadlines.empty()) return;
  if (now > deadlines.begin()->first + options.stall) {
    for (auto& [number, worker] : workers) {
      if (deadline(number) > now) continue;
      worker.heard = now;
      for (int job : policy.queue(number))
        out.at(job).lease_end = std::max(out.at(job).lease_end, now + options.lease);
      for (auto& [attempt, until] : worker.unconfirmed) until = std::max(until, now + options.lease);
      list_deadline(number);
    }
  }
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    const int number = deadlines.begin()->second;
    if (deadline(number) > now) {
      list_deadline(number);
    } else {
      give_up(number, "the worker stopped answering", now);
    }
  }
}

void ReactorState::end_unplaceable(Instant now) {
  if (stopping || workers.empty() || !policy.has_unplaceable()) {
    unplaceable_since.reset();
    return;
  }
  if (!unplaceable_since) unplaceable_since = now;
  if (now - *unplaceable_since < unplaceable_patience()) return;
  for (const int job : policy.unplaceable()) {
    policy.remove_ready(job);
    const std::string needed = std::to_string(jobs.job(job).gpus);
    end_job(job, JobPhase::failed,
            "it needs " + needed + " devices of one machine at once, and no machine of this run has so many " +
                "workers: run it where there are " + needed + ", or make resources.gpus smaller");
  }
}

void ReactorState::sanity_check() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("reactor: ") + what);
  };
  jobs.sanity_check();
  policy.sanity_check();
  for (int job = 0; job < jobs.size(); ++job) {
    const JobPhase phase = jobs[job].phase;
    require((phase == JobPhase::running) == out.contains(job),
            "a job runs without an attempt, or one is out "
            "of a job that does not run");
    require((phase == JobPhase::publishing) == publisher.contains(job), "a job is published without a publisher");
    require((phase == JobPhase::ready) == policy.waits(job), "a ready job is not waiting for a worker");
    require(phase != JobPhase::failed || !jobs.error(job).empty(), "a job failed without a reason");
  }
  std::size_t held = 0;
  for (const auto& [number, worker] : workers) {
    require(worker_of_rank.at(worker.id.rank) == number, "two stays of one rank");
    require(deadlines.contains({worker.listed_deadline, number}), "a worker without a deadline");
    require(worker.listed_deadline <= deadline(number), "a worker is looked at too late");
    for (int job : policy.queue(number)) {
      require(out.at(job).worker == number, "an attempt is in another worker's queue");
      ++held;
    }
  }
  require(held == out.size(), "an attempt is in no worker's queue");
  require(deadlines.size() == workers.size(), "a deadline of a worker that is gone");
}

}  // namespace finesweep::coordinator
