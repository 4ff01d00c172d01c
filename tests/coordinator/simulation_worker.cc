// The workers' side: each does what worker/agent does, and may be killed, frozen or interrupted at any moment.

#include <algorithm>

#include "tests/coordinator/simulation_world.h"

namespace finesweep::coordinator {

using namespace std::chrono_literals;

void World::start_worker(int rank) {
  Worker& worker = workers_[rank];
  if (worker.alive || !reactor_) return;
  log("rank " + std::to_string(rank) + " starts");
  worker.alive = true;
  worker.frozen_until = now_;
  send_to_coordinator(rank, Hello{rank, worker.process});
}

void World::kill_worker(int rank) {
  Worker& worker = workers_[rank];
  if (!worker.alive) return;
  log("rank " + std::to_string(rank) + " ends");
  drop_running(rank);
  worker.alive = worker.stopping = false;
  ++worker.process;
  worker.inbox.clear();
  worker.queue.clear();
  worker.unacknowledged.clear();
  worker.id.reset();
}

/// In this process, once it is not frozen.
void World::for_worker(int rank, Duration delay, Action action) {
  after(delay, [this, rank, process = workers_[rank].process, action = std::move(action)]() mutable {
    Worker& worker = workers_[rank];
    if (!worker.alive || worker.process != process) return;
    if (now_ < worker.frozen_until) {
      for_worker(rank, worker.frozen_until - now_, std::move(action));
    } else {
      action();
    }
  });
}

void World::deliver(int rank, ToWorker message) {
  Worker& worker = workers_[rank];
  worker.last_delivery = std::max(worker.last_delivery, now_ + network_delay());
  at(worker.last_delivery, [this, rank, process = worker.process, message = std::move(message)]() mutable {
    if (!workers_[rank].alive || workers_[rank].process != process) return;
    workers_[rank].inbox.push_back(std::move(message));
    for_worker(rank, 0ms, [this, rank] {
      const ToWorker next = std::move(workers_[rank].inbox.front());
      workers_[rank].inbox.pop_front();
      std::visit([&](const auto& m) { receive(rank, m); }, next);
    });
  });
}

void World::receive(int rank, const Welcome& message) {
  workers_[rank].id = message.worker;
  beat(rank, ++workers_[rank].heartbeats);
}

void World::receive(int rank, const SendDispatch& message) {
  Worker& worker = workers_[rank];
  if (worker.id != message.worker) return;  // meant for an earlier stay
  worker.queue.push_back(message.pack);
  run_next(rank);
}

void World::receive(int rank, const SendAcknowledge& message) {
  Worker& worker = workers_[rank];
  const auto kept = worker.unacknowledged.find(message.attempt);
  if (kept != worker.unacknowledged.end()) {
    if (message.accepted && kept->second.outcome.kind == OutcomeKind::succeeded) {
      acknowledged_.insert(message.attempt);
      require(store_->is_committed(message.attempt), "a worker forgot a result that is not durable");
    }
    worker.unacknowledged.erase(kept);
  }
  leave_if_done(rank);
}

void World::receive(int rank, const SendRevoke& message) {
  Worker& worker = workers_[rank];
  for (auto& pack : worker.queue) std::erase(pack, message.attempt);
  std::erase_if(worker.queue, [](const auto& pack) { return pack.empty(); });
  worker.unacknowledged.erase(message.attempt);
  for (const std::size_t run : std::vector(worker.running)) {
    if (runs_[run].attempt != message.attempt || runs_[run].revoked) continue;
    runs_[run].revoked = true;
    if (concerns_somebody(rank)) {  // the others go on; it leaves at the end of a step
      ++report_.members_revoked;
      for_worker(rank, random_.between(1ms, 300ms), [this, rank, run] { leave_run(rank, run); });
    } else {
      kill_runner(rank);
    }
  }
  const bool runs =
      std::ranges::any_of(worker.running, [&](std::size_t run) { return runs_[run].attempt == message.attempt; });
  if (!runs) say_revoked(rank, message.attempt);
  leave_if_done(rank);
}

void World::say_revoked(int rank, const AttemptKey& attempt) {
  if (workers_[rank].id) send_to_coordinator(rank, AttemptRevoked{*workers_[rank].id, attempt});
}

void World::receive(int rank, const SendStop&) {
  interrupt(rank);
}

void World::receive(int rank, const SendRejoin&) {
  Worker& worker = workers_[rank];
  if (!worker.id) return;  // a Hello is on its way
  worker.queue.clear();
  worker.unacknowledged.clear();
  drop_running(rank);
  worker.id.reset();
  if (worker.stopping) {
    leave_if_done(rank);
  } else {
    send_to_coordinator(rank, Hello{rank, worker.process});
  }
}

void World::run_next(int rank) {
  Worker& worker = workers_[rank];
  if (!worker.running.empty() || worker.queue.empty() || worker.stopping) return;
  const auto pack = std::move(worker.queue.front());
  worker.queue.pop_front();
  for (const AttemptKey& attempt : pack) begin_run(rank, attempt);
}

void World::begin_run(int rank, const AttemptKey& attempt) {
  Worker& worker = workers_[rank];
  for (const JobId& need : needs_of(job(attempt.job)))
    require(store_->is_committed(need), "a job began before what it needs was committed");
  const std::size_t run = runs_.size();
  runs_.push_back({worker.host, rank, worker.process, life_, *worker.id, attempt, now_, std::nullopt, false});
  check_devices(runs_.back());
  worker.running.push_back(run);
  report_.isolated += job(attempt.job).isolate;
  report_.on_several_devices += job(attempt.job).gpus > 1;

  const bool faults = now_ < weather_.faults_until;
  const bool crashes = faults && random_.chance(weather_.crash);
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  if (crashes || (faults && random_.chance(weather_.failure))) {
    outcome.kind = OutcomeKind::failed;
    outcome.error = crashes ? "the runner died" : "the loss is not a number";
    outcome.permanent = !crashes && random_.chance(weather_.permanent);
  }
  const Duration duration = weather_.short_jobs ? random_.between(1ms, 40ms) : random_.between(100ms, 4s);
  for_worker(rank, duration, [this, rank, run, outcome, crashes] { finish_run(rank, run, outcome, crashes); });
}

/// As the agent does it when a runner says that it has room, which it does at times.
void World::let_join(int rank) {
  Worker& worker = workers_[rank];
  if (worker.running.empty() || worker.queue.empty() || worker.stopping || !worker.id || !concerns_somebody(rank))
    return;
  if (random_.chance(0.3)) return;
  const bool on_cpu = worker.device == "cpu";
  PackFill fill(on_cpu ? reactor_options_.max_pack_jobs_on_cpu : reactor_options_.max_pack_jobs, worker.memory_mb);
  AttemptsJoined joined{*worker.id, {}, {}};
  for (const std::size_t run : worker.running) {
    joined.pack.push_back(runs_[run].attempt);
    fill.add(joining_.at(runs_[run].attempt));
  }
  const int key = joining_.at(joined.pack.front()).key;
  if (key < 0 || !fill.has_room()) return;
  auto& waiting = worker.queue.front();
  while (!waiting.empty()) {
    const PackTraits& next = joining_.at(waiting.front());
    if (next.key != key || !fill.admits(next)) break;
    fill.add(next);
    joined.joined.push_back(waiting.front());
    waiting.erase(waiting.begin());
  }
  if (waiting.empty()) worker.queue.pop_front();
  if (joined.joined.empty()) return;
  report_.joined += static_cast<int>(joined.joined.size());
  std::vector<AttemptKey> together = joined.pack;
  together.insert(together.end(), joined.joined.begin(), joined.joined.end());
  check_together(worker, together);
  send_to_coordinator(rank, joined);
  for (const AttemptKey& attempt : joined.joined) begin_run(rank, attempt);
}

void World::finish_run(int rank, std::size_t run, const Outcome& outcome, bool crashed) {
  Worker& worker = workers_[rank];
  if (std::find(worker.running.begin(), worker.running.end(), run) == worker.running.end()) return;
  if (runs_[run].revoked && !crashed) return leave_run(rank, run);
  // A runner that dies takes its whole pack with it.
  const std::vector<std::size_t> ended = crashed ? worker.running : std::vector<std::size_t>{run};
  report_.halved_packs += ended.size() > 1;
  for (std::size_t each : crashed ? ended : std::vector<std::size_t>())
    for (std::size_t other : ended)
      if (other != each && !runs_[other].revoked)
        crashed_with_[runs_[each].attempt].push_back(runs_[other].attempt);
  for (std::size_t each : ended) {
    std::erase(worker.running, each);
    runs_[each].end = now_;
    const AttemptKey attempt = runs_[each].attempt;
    if (outcome.kind == OutcomeKind::succeeded) store_->stage(attempt);
    if (runs_[each].revoked) say_revoked(rank, attempt);
    if (!worker.id || runs_[each].revoked) continue;
    AttemptFinished finished{*worker.id, attempt, outcome, crashed};
    finished.outcome.metrics = {
        {"rank", worker.id->rank}, {"incarnation", worker.id->incarnation}, {"attempt", attempt.number}};
    const int times = random_.chance(weather_.twice) ? 2 : 1;
    for (int i = 0; i < times; ++i) send_to_coordinator(rank, finished);
    worker.unacknowledged.emplace(attempt, std::move(finished));
  }
  if (!worker.running.empty() && !concerns_somebody(rank)) kill_runner(rank);
  let_join(rank);
  run_next(rank);
  leave_if_done(rank);
}

/// Its process is sent a signal, and is gone a moment later.
void World::kill_runner(int rank) {
  for (std::size_t run : workers_[rank].running)
    for_worker(rank, random_.between(0ms, 20ms), [this, rank, run] { leave_run(rank, run); });
}

void World::leave_run(int rank, std::size_t run) {
  Worker& worker = workers_[rank];
  if (std::erase(worker.running, run) == 0) return;
  runs_[run].end = now_;
  say_revoked(rank, runs_[run].attempt);
  let_join(rank);
  run_next(rank);
  leave_if_done(rank);
}

bool World::concerns_somebody(int rank) const {
  return std::ranges::any_of(workers_[rank].running, [this](std::size_t run) { return !runs_[run].revoked; });
}

void World::drop_running(int rank) {
  for (std::size_t run : workers_[rank].running) runs_[run].end = now_;
  workers_[rank].running.clear();
}

void World::beat(int rank, int loop) {
  Worker& worker = workers_[rank];
  if (loop != worker.heartbeats || !worker.id) return;
  HeartbeatArrived heartbeat{*worker.id, {}};
  for (std::size_t run : worker.running) {
    const auto done = (now_ - runs_[run].begin) / 100ms;
    heartbeat.held.emplace_back(runs_[run].attempt, Progress{static_cast<std::int64_t>(done), 0, "training", 0});
  }
  for (const auto& pack : worker.queue)
    for (const AttemptKey& attempt : pack) heartbeat.held.emplace_back(attempt, Progress{});
  for (const auto& [attempt, finished] : worker.unacknowledged) {
    heartbeat.held.emplace_back(attempt, Progress{});
    send_to_coordinator(rank, finished);
  }
  send_to_coordinator(rank, std::move(heartbeat));
  for_worker(rank, weather_.heartbeat, [this, rank, loop] { beat(rank, loop); });
}

/// Told to stop, by the coordinator or by a signal: what runs writes a checkpoint, what waits is dropped.
void World::interrupt(int rank) {
  Worker& worker = workers_[rank];
  if (worker.stopping) return;
  worker.stopping = true;
  worker.queue.clear();
  for (std::size_t run : worker.running)
    for_worker(rank, random_.between(1ms, 300ms), [this, rank, run] {
      Outcome outcome;
      outcome.kind = OutcomeKind::interrupted;
      finish_run(rank, run, outcome, false);
    });
  leave_if_done(rank);
}

void World::leave_if_done(int rank) {
  Worker& worker = workers_[rank];
  if (!worker.stopping || !worker.running.empty() || !worker.unacknowledged.empty()) return;
  if (worker.id) send_to_coordinator(rank, WorkerLost{*worker.id, "it left"});
  kill_worker(rank);
  after(random_.between(100ms, 4s), [this, rank] { start_worker(rank); });
}

}  // namespace finesweep::coordinator
