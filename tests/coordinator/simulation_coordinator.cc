// The coordinator's side: a driver as the program has it, that may be killed between any two steps.

#include <algorithm>
#include <typeinfo>

#include "tests/coordinator/simulation_world.h"

namespace finesweep::coordinator {

using namespace std::chrono_literals;

namespace {

std::string describe(const AttemptKey& attempt) {
  return attempt.job.hex().substr(0, 4) + "." + std::to_string(attempt.number);
}

/// An event or an effect in a few words, for the trace.
template <typename... Alternatives>
std::string describe(const std::variant<Alternatives...>& alternatives) {
  return std::visit(
      [](const auto& it) {
        using It = std::decay_t<decltype(it)>;
        std::string text = typeid(It).name();
        text.erase(0, text.find_last_of("0123456789") + 1);
        if constexpr (requires { it.worker; }) text += " " + to_string(it.worker);
        if constexpr (requires { it.attempt; }) text += " " + describe(it.attempt);
        if constexpr (requires { it.accepted; }) text += it.accepted ? " accepted" : " refused";
        if constexpr (requires { it.outcome; }) text += " " + std::string(outcome_kind_name(it.outcome.kind));
        if constexpr (requires { it.pack; })
          for (const AttemptKey& attempt : it.pack) text.append(" ").append(describe(attempt));
        if constexpr (requires { it.held; })
          for (const auto& held : it.held) text += " " + describe(held.first);
        if constexpr (requires { it.error; }) text += " " + it.error;
        return text;
      },
      alternatives);
}

}  // namespace

void World::start_coordinator() {
  log("the coordinator starts");
  ++report_.coordinator_lives;
  const int life = ++life_;
  incarnations_.clear();
  current_.clear();
  known_.clear();
  inbox_.clear();
  pending_.clear();
  flush_scheduled_ = stop_sent_ = ended_ = false;
  most_together_.clear();
  reactor_ = std::make_unique<Reactor>(reactor_options_, jobs_, store_->recover(report_), packing_);
  if (options_.check_reactor) reactor_->sanity_check();
  for (int rank = 0; rank < static_cast<int>(workers_.size()); ++rank)
    after(random_.between(0ms, 500ms), [this, rank, life] {
      if (life == life_) start_worker(rank);
    });
  tick(life);
}

/// Losing rank 0 ends the whole MPI job: the workers go too, and all that was under way between them.
void World::kill_coordinator() {
  log("the coordinator is killed");
  reactor_.reset();
  ++life_;
  boundaries_until_kill_ = -1;
  for (int rank = 0; rank < static_cast<int>(workers_.size()); ++rank) kill_worker(rank);
  after(random_.between(100ms, 3s), [this] { start_coordinator(); });
}

/// Between two steps.
void World::boundary() {
  if (boundaries_until_kill_ >= 0 && boundaries_until_kill_-- == 0) throw Killed{};
}

/// Does it in this life of the coordinator, once it is not standing still.
void World::when_awake(Action action) {
  if (!reactor_) return;
  if (now_ < asleep_until_) {
    at(asleep_until_, [this, life = life_, action = std::move(action)]() mutable {
      if (life == life_) when_awake(std::move(action));
    });
    return;
  }
  try {
    action();
  } catch (const Killed&) {
    kill_coordinator();
  }
}

void World::send_to_coordinator(int rank, ToCoordinator message) {
  if (!reactor_) return;
  Worker& worker = workers_[rank];
  worker.last_sent = std::max(worker.last_sent, now_ + network_delay());  // one sender's messages stay in order
  at(worker.last_sent, [this, rank, life = life_, message = std::move(message)]() mutable {
    if (life != life_) return;
    inbox_.emplace_back(rank, std::move(message));
    when_awake([this] { receive_next(); });
  });
}

void World::receive_next() {
  const auto [rank, message] = std::move(inbox_.front());
  inbox_.pop_front();
  if (const auto* hello = std::get_if<Hello>(&message)) {
    if (!workers_[rank].alive || workers_[rank].process != hello->process) return;  // its connection is gone
    const WorkerId id{rank, ++incarnations_[rank]};
    current_[rank] = {id, workers_[rank].process};
    known_.insert(id);
    deliver(rank, Welcome{id});
    handle(WorkerJoined{id, {workers_[rank].host, workers_[rank].device, workers_[rank].memory_mb}});
  } else if (const auto* heartbeat = std::get_if<HeartbeatArrived>(&message)) {
    handle(*heartbeat);
  } else if (const auto* finished = std::get_if<AttemptFinished>(&message)) {
    handle(*finished);
  } else if (const auto* joined = std::get_if<AttemptsJoined>(&message)) {
    handle(*joined);
  } else if (const auto* revoked = std::get_if<AttemptRevoked>(&message)) {
    handle(*revoked);
  } else {
    const auto& lost = std::get<WorkerLost>(message);
    if (const auto found = current_.find(rank); found != current_.end() && found->second.first == lost.worker)
      current_.erase(found);
    handle(lost);
  }
}

void World::tick(int life) {
  if (life != life_) return;
  if (now_ < asleep_until_) return at(asleep_until_, [this, life] { tick(life); });
  when_awake([this] {
    handle(Tick{});
    answer_cancellations();
  });
  if (life != life_) return;
  const Instant next = now_ + random_.between(50ms, 500ms);
  at(std::min(next, reactor_->next_deadline().value_or(next)), [this, life] { tick(life); });
}

/// As the driver does: decided and recorded at once, answered when nothing of it is being published.
void World::answer_cancellations() {
  for (CancelRequest& request : cancel_requests_) {
    if (request.taken_in_life == life_) continue;
    handle(CancelRequested{request.jobs});
    flush();
    if (!reactor_ || ended_) return;
    request.taken_in_life = life_;
  }
  if (!cancel_requests_.empty() && !pending_.empty()) {
    flush();
    if (!reactor_ || ended_) return;
  }
  std::erase_if(cancel_requests_, [this](const CancelRequest& request) {
    for (const JobId& job : request.jobs)
      if (reactor_->view(job).phase == JobPhase::publishing) return false;
    for (const JobId& job : request.jobs)
      require(store_->is_over(job), "a request to cancel a job was answered before that was durable");
    told_cancelled_.insert(request.jobs.begin(), request.jobs.end());
    ++report_.answered_cancellations;
    return true;
  });
}

void World::handle(const Event& event) {
  boundary();
  if (options_.trace) log("event " + describe(event));
  auto effects = reactor_->handle(event, now_);
  if (options_.check_reactor) reactor_->sanity_check();
  for (const Effect& effect : effects)
    if (const auto* join = std::get_if<RecordJoin>(&effect))
      for (const JobId& job : {join->attempt.job, join->member})
        check_halved(job, static_cast<std::size_t>(join->pack_jobs));
  note_crashed_pack(effects);
  check_blame(effects);
  note_decisions(effects);
  pending_.insert(pending_.end(), std::make_move_iterator(effects.begin()), std::make_move_iterator(effects.end()));
  if (pending_.empty() || flush_scheduled_) return;
  // The driver commits for several events at once.
  flush_scheduled_ = true;
  after(random_.chance(0.5) ? Duration(0) : random_.between(0ms, 50ms), [this, life = life_] {
    if (life == life_) when_awake([this] { flush(); });
  });
}

/// Which attempts were decided and which workers given up in this call of the reactor.
void World::note_decisions(const std::vector<Effect>& effects) {
  ++decisions_;
  for (const Effect& effect : effects)
    if (const auto* attempt = std::get_if<RecordAttempt>(&effect)) decided_[attempt->attempt] = decisions_;
  std::erase_if(known_, [this](const WorkerId& worker) {
    if (reactor_->knows(worker)) return false;
    given_up_[{life_, worker}] = decisions_;
    return true;
  });
}

void World::flush() {
  flush_scheduled_ = false;
  const std::vector<Effect> round = std::exchange(pending_, {});
  boundary();
  store_->apply(round, report_);
  boundary();
  bool over = false;
  std::set<int> lent;
  for (const Effect& effect : round) {
    if (options_.trace) log("  effect " + describe(effect));
    if (const auto* result = std::get_if<Publish>(&effect)) publish(*result);
    if (const auto* loan = std::get_if<SendLend>(&effect)) lent.insert(loan->worker.rank);
    if (const auto* dispatch = std::get_if<SendDispatch>(&effect)) {
      check_pack(*dispatch);
      for (const AttemptKey& attempt : dispatch->pack) {
        joining_[attempt] = reactor_->joining_traits(attempt.job);
        const auto devices = static_cast<std::size_t>(job(attempt.job).gpus);
        require(dispatch->devices.size() == (devices > 1 ? devices : 0) && lent.size() == devices - 1,
                "a job was dispatched with too few or too many devices");
        for (const int rank : lent)
          require(rank != dispatch->worker.rank && workers_[rank].host == workers_[dispatch->worker.rank].host,
                  "a device of another host was lent");
        lent_[attempt] = std::exchange(lent, {});
        require(store_->is_recorded(attempt, dispatch->worker), "an attempt was dispatched before it was durable");
        require(!told_cancelled_.contains(attempt.job), "a job was dispatched that was said to be cancelled");
        for (const JobId& need : needs_of(job(attempt.job)))
          require(store_->is_committed(need), "a job was dispatched before what it needs was committed");
      }
      send(dispatch->worker, effect);
      cancel_on_its_way(*dispatch);
    }
    if (const auto* acknowledge = std::get_if<SendAcknowledge>(&effect)) {
      if (acknowledge->accepted) {
        require(store_->is_committed(acknowledge->attempt) || store_->is_reported_end(acknowledge->attempt),
                "a result was acknowledged before it was durable");
      } else {
        ++report_.refused_results;
      }
      send(acknowledge->worker, effect);
    }
    if (const auto* revoke = std::get_if<SendRevoke>(&effect)) send(revoke->worker, effect);
    if (const auto* stop = std::get_if<SendStop>(&effect)) send(stop->worker, effect);
    if (const auto* rejoin = std::get_if<SendRejoin>(&effect)) send(rejoin->worker, effect);
    if (std::holds_alternative<SweepEnded>(effect)) {
      require(!ended_, "the sweep ended twice");
      ended_ = over = true;
    }
    boundary();
  }
  if (over) end_life();
}

/// At times a job is cancelled so soon after its dispatch that its worker has not heard of it.
void World::cancel_on_its_way(const SendDispatch& dispatch) {
  if (weather_.hasty_cancels == 0 || now_ >= weather_.faults_until || !random_.chance(0.3)) return;
  --weather_.hasty_cancels;
  const JobId job = dispatch.pack[random_.between(0, static_cast<int>(dispatch.pack.size()) - 1)].job;
  after(random_.between(0ms, 10ms), [this, job, life = life_] {
    if (life == life_) when_awake([this, job] { handle(CancelRequested{{job}}); });
  });
}

/// Verify, rename, commit: each a step of its own, so that the coordinator can be killed between them.
void World::publish(const Publish& effect) {
  const AttemptKey attempt = effect.attempt;
  const int rank = static_cast<int>(effect.outcome.metrics.at("rank"));
  const int incarnation = static_cast<int>(effect.outcome.metrics.at("incarnation"));
  store_->check_publishable(attempt, {rank, incarnation});
  require(effect.outcome.metrics.at("attempt") == attempt.number, "an outcome is published under another attempt");
  after(random_.between(0ms, 30ms), [this, attempt, life = life_] {
    if (life != life_) return;
    when_awake([this, attempt, life] {
      boundary();
      require(store_->is_staged(attempt), "a result without its files is published");
      if (random_.chance(now_ < weather_.faults_until ? weather_.publish_failure : 0)) {
        ++report_.publish_failures;
        handle(PublishFailed{attempt, "no space left on device"});
        return;
      }
      store_->rename(attempt);
      boundary();
      after(random_.between(0ms, 30ms), [this, attempt, life] {
        if (life != life_) return;
        when_awake([this, attempt] {
          boundary();
          store_->commit(attempt, report_);
          check_isolation(attempt);
          boundary();
          handle(Published{attempt});
        });
      });
    });
  });
}

void World::end_life() {
  if (!stop_sent_) store_->check_end(jobs_);
  require(pending_.empty() || store_->all_over(), "something was decided in the step that ended the sweep");
  if (store_->all_over()) {
    finished_ = true;
    return;
  }
  log("stopped; the user runs it again");
  kill_coordinator();
}

void World::send(const WorkerId& worker, const Effect& effect) {
  const auto found = current_.find(worker.rank);
  if (found == current_.end() || found->second.first != worker) return;  // nothing is sent to a lost worker
  if (workers_[worker.rank].process != found->second.second) return;     // it vanishes
  std::visit(
      [&](const auto& message) {
        if constexpr (std::is_constructible_v<ToWorker, decltype(message)>) deliver(worker.rank, message);
      },
      effect);
}

}  // namespace finesweep::coordinator
