#include "tests/coordinator/simulation_world.h"

#include <algorithm>
#include <iostream>

namespace finesweep::coordinator {

using namespace std::chrono_literals;

World::World(std::uint64_t seed, const simulation::Options& options) : options_(options), random_(seed) {
  reactor_options_.lease = 3s;
  reactor_options_.stall = 700ms;
  reactor_options_.max_backlog_jobs = 4;
  make_weather();
  make_workers();
  make_jobs();
  store_.emplace(jobs_, reactor_options_.max_losses);
  schedule_faults();
  // Once nothing goes wrong any more, every job may have to use up all its tries, one after the other.
  give_up_at_ = weather_.faults_until + 60s + static_cast<int>(jobs_.size()) * 12 * 4s;
}

void World::make_weather() {
  auto& w = weather_;
  w.faults_until = random_.between(0ms, 40s);
  const auto some = [&](int most) { return random_.chance(0.5) ? random_.between(0, most) : 0; };
  const auto share = [&](double most) {
    return random_.chance(0.5) ? most * random_.between(0, 100) / 100.0 : 0.0;
  };
  w.kills = some(8);
  w.freezes = some(6);
  w.coordinator_kills = some(4);
  w.stalls = some(3);
  w.interruptions = some(3);
  w.spikes = some(4);
  w.single_cancels = some(3);
  w.full_of_loans = random_.chance(0.2) || options_.full_of_loans;
  w.full_of_packs = !w.full_of_loans && (random_.chance(0.2) || options_.full_of_packs);
  w.hasty_cancels = w.full_of_loans ? random_.between(2, 8) : some(3);
  w.heartbeat = random_.between(50ms, 500ms);
  w.cancellations = random_.chance(0.2) ? random_.between(1, 3) : 0;
  w.stop = random_.chance(0.15);
  w.failure = share(0.4);
  w.permanent = share(0.1);
  w.crash = share(0.4);
  w.publish_failure = share(0.3);
  w.twice = share(0.5);
  w.short_jobs = random_.chance(0.3);
}

void World::make_workers() {
  const bool loans = weather_.full_of_loans;
  const int workers = random_.between(loans ? 2 : 1, 5), hosts = loans ? 1 : random_.between(1, 3);
  const bool packs = weather_.full_of_packs;
  const bool gpus = random_.chance(0.25) || packs;
  if (gpus) reactor_options_.max_pack_jobs = random_.between(packs ? 2 : 1, 6);
  if (random_.chance(0.25)) reactor_options_.max_pack_jobs_on_cpu = random_.between(1, 4);
  workers_.resize(workers);
  for (Worker& worker : workers_) {
    worker.host = "host" + std::to_string(random_.between(1, hosts));
    worker.device = gpus ? "cuda:0" : "cpu";
    if (gpus && random_.chance(0.5)) worker.memory_mb = random_.between(10, 30);
  }
}

void World::make_jobs() {
  const int count = random_.between(weather_.full_of_packs ? 8 : 1, 14);
  const double isolated = random_.chance(0.5) ? 0.3 : 0.0,
               dependent = random_.chance(weather_.full_of_packs ? 0.2 : 0.7) ? 0.5 : 0.0;
  const double large = random_.chance(0.4) || weather_.full_of_loans ? 0.4 : 0.0;
  for (int i = 0; i < count; ++i) {
    Job job;
    job.id = JobId::of("job " + std::to_string(i));
    job.title = "job " + std::to_string(i);
    job.retries = random_.between(0, 3);
    job.isolate = random_.chance(isolated);
    if (random_.chance(large)) job.gpus = random_.between(2, 3);
    job.context = {{"model", random_.chance(0.7) ? "/models/base" : "/models/other"}};
    for (int need = 0; i > 0 && need < 2; ++need)
      if (random_.chance(dependent)) job.inputs.push_back(jobs_[random_.between(0, i - 1)].id);
    if (i > 0 && random_.chance(dependent / 4)) job.continues = jobs_[i - 1].id;
    index_[job.id] = jobs_.size();
    jobs_.push_back(std::move(job));
  }
  const int keys = weather_.full_of_packs ? 1 : random_.between(1, 3);
  const bool few_tokens = random_.chance(0.5);
  for (int i = 0; i < count; ++i) {
    PackTraits traits;
    traits.key = random_.chance(0.9) ? random_.between(0, keys - 1) : -1;
    traits.tokens = random_.between(1, 8);
    if (few_tokens) traits.most_tokens = random_.between(8, 16);
    traits.shared_mb = 5;
    traits.own_mb = random_.between(1, 6);
    packing_.push_back(traits);
  }
}

void World::schedule_faults() {
  const auto some_time = [this] {
    const auto until = std::chrono::duration_cast<std::chrono::milliseconds>(weather_.faults_until);
    return random_.between(0ms, until + 1ms);
  };
  const auto any_rank = [this] { return random_.between(0, static_cast<int>(workers_.size()) - 1); };
  for (int i = 0; i < weather_.kills; ++i)
    at(some_time(), [this, rank = any_rank()] {
      Worker& worker = workers_[rank];
      if (!worker.alive) return;
      const auto known = worker.id;
      kill_worker(rank);
      if (known && random_.chance(0.5)) send_to_coordinator(rank, WorkerLost{*known, "killed"});
      after(random_.between(100ms, 6s), [this, rank] { start_worker(rank); });
    });
  for (int i = 0; i < weather_.freezes; ++i)
    at(some_time(), [this, rank = any_rank()] {
      log("rank " + std::to_string(rank) + " freezes");
      workers_[rank].frozen_until = now_ + random_.between(100ms, 9s);
    });
  for (int i = 0; i < weather_.coordinator_kills; ++i)
    at(some_time(), [this] { boundaries_until_kill_ = random_.between(0, 12); });
  for (int i = 0; i < weather_.stalls; ++i)
    at(some_time(), [this] {
      log("the coordinator stands still");
      asleep_until_ = now_ + random_.between(100ms, 7s);
    });
  for (int i = 0; i < weather_.interruptions; ++i)
    at(some_time(), [this, rank = any_rank()] { for_worker(rank, 0ms, [this, rank] { interrupt(rank); }); });
  for (int i = 0; i < weather_.spikes; ++i)
    at(some_time(), [this] {
      spike_ = random_.between(100ms, 5s);
      spike_until_ = now_ + random_.between(100ms, 4s);
    });
  for (int i = 0; i < weather_.cancellations; ++i)
    at(some_time(), [this] {
      CancelRequest request;
      const bool everything = random_.chance(0.1);
      for (const Job& job : jobs_)
        if (everything || random_.chance(0.2)) request.jobs.push_back(job.id);
      cancel_requests_.push_back(std::move(request));
    });
  for (int i = 0; i < weather_.single_cancels; ++i)
    at(some_time(), [this, number = random_.next()] {
      if (!reactor_) return;
      when_awake([this, number] {
        const auto out = reactor_->attempts();
        if (!out.empty()) handle(CancelRequested{{out[number % out.size()].key.job}});
      });
    });
  if (weather_.stop)
    at(some_time(), [this] {
      when_awake([this] {
        stop_sent_ = true;
        handle(StopRequested{});
      });
    });
}

Duration World::network_delay() {
  const Duration delay = random_.between(0ms, 20ms);
  return now_ < spike_until_ ? delay + spike_ : delay;
}

void World::at(Instant time, Action action) {
  schedule_.push_back({std::max(time, now_), next_order_++, std::move(action)});
  std::push_heap(schedule_.begin(), schedule_.end(), std::greater<>());
}

void World::log(const std::string& what) const {
  if (!options_.trace) return;
  std::cerr << std::chrono::duration<double>(now_).count() << " s  " << what << "\n";
}

simulation::Report World::run() {
  try {
    start_coordinator();
    while (!finished_) {
      require(!schedule_.empty(), "nothing will ever happen again");
      std::pop_heap(schedule_.begin(), schedule_.end(), std::greater<>());
      Scheduled next = std::move(schedule_.back());
      schedule_.pop_back();
      now_ = next.time;
      require(now_ < give_up_at_, "the sweep does not end although nothing goes wrong any more");
      next.action();
      ++report_.events;
    }
    store_->check_end(jobs_);
    for (const JobId& job : told_cancelled_)
      require(store_->is_over(job), "a job was said to be cancelled that is not over");
    for (const AttemptKey& attempt : acknowledged_)
      require(store_->is_committed(attempt), "an acknowledged result is lost");
  } catch (const std::exception& violation) {
    report_.violation =
        std::to_string(std::chrono::duration<double>(now_).count()) + " s: " + std::string(violation.what());
  }
  return report_;
}

const World::Run& World::run_of(const AttemptKey& committed) const {
  const auto found =
      std::find_if(runs_.begin(), runs_.end(), [&](const Run& run) { return run.attempt == committed; });
  require(found != runs_.end() && found->end, "a result of an attempt that did not run");
  return *found;
}

/// Its worker had been given up when that was decided.
bool World::was_over_before(const Run& other, const Run& mine) const {
  const auto given_up = given_up_.find({other.life, other.worker});
  return given_up != given_up_.end() && given_up->second <= decided_.at(mine.attempt);
}

/// The committed attempt claims to have been alone on its host.
void World::check_isolation(const AttemptKey& committed) const {
  if (!job(committed.job).isolate) return;
  const Run& mine = run_of(committed);
  if (workers_[mine.rank].device != "cpu") return;
  for (const Run& other : runs_) {
    if (&other == &mine || other.host != mine.host) continue;
    const bool apart = (other.end && *other.end <= mine.begin) || other.begin >= *mine.end;
    require(apart || was_over_before(other, mine), "an isolated job was not alone on its host");
  }
}

std::set<int> World::devices_of(const Run& run) const {
  std::set<int> ranks = lent_.at(run.attempt);
  ranks.insert(run.rank);
  return ranks;
}

/// A run that begins now has its devices for itself.
void World::check_devices(const Run& mine) const {
  const std::set<int> devices = devices_of(mine);
  for (const Run& other : runs_) {
    if (other.end || other.rank == mine.rank) continue;  // a worker does one thing after the other
    const std::set<int> others = devices_of(other);
    const bool apart = std::none_of(others.begin(), others.end(), [&](int rank) { return devices.contains(rank); });
    require(apart || was_over_before(other, mine) || was_over_before(mine, other),
            "two jobs ran on one device, which had been lent");
  }
}

/// What goes out together may.
void World::check_pack(const SendDispatch& dispatch) {
  const std::size_t size = dispatch.pack.size();
  require(size > 0, "a pack of no jobs was dispatched");
  if (size == 1) return;
  const Worker& worker = workers_[dispatch.worker.rank];
  ++(worker.device == "cpu" ? report_.packs_on_cpus : report_.packs);
  check_together(worker, dispatch.pack);
  for (const AttemptKey& attempt : dispatch.pack) check_halved(attempt.job, size);
}

void World::check_halved(const JobId& job, std::size_t pack) const {
  const auto limit = most_together_.find(job);
  require(limit == most_together_.end() || pack <= limit->second, "a pack that crashed was not halved");
}

void World::check_together(const Worker& worker, const std::vector<AttemptKey>& pack) const {
  const std::size_t size = pack.size();
  const bool on_cpu = worker.device == "cpu";
  const int most = on_cpu ? reactor_options_.max_pack_jobs_on_cpu : reactor_options_.max_pack_jobs;
  require(static_cast<int>(size) <= most, "more jobs share a pack than may");
  const PackTraits& first = packing_[index_.at(pack.front().job)];
  std::int64_t tokens = 0;
  double own_mb = 0;
  for (const AttemptKey& attempt : pack) {
    const PackTraits& traits = packing_[index_.at(attempt.job)];
    require(traits.key >= 0 && traits.key == first.key, "jobs of different keys share a pack");
    require(!job(attempt.job).isolate && job(attempt.job).gpus == 1, "a job that is to be alone shares a pack");
    tokens += traits.tokens;
    own_mb += traits.own_mb;
  }
  for (const AttemptKey& attempt : pack) {
    const std::int64_t most_tokens = packing_[index_.at(attempt.job)].most_tokens;
    require(most_tokens == 0 || tokens <= most_tokens, "a pack has more tokens than a member lets it");
  }
  require(worker.memory_mb == 0 || first.shared_mb + own_mb <= kPackMemoryShare * worker.memory_mb,
          "a pack is larger than its device");
}

/// Who crashed beside another one is not to blame alone: together they end, to be halved.
void World::check_blame(const std::vector<Effect>& effects) const {
  std::set<AttemptKey> still_out;
  for (const Effect& effect : effects) {
    const auto* end = std::get_if<RecordAttemptEnd>(&effect);
    const auto crash = end ? crashed_with_.find(end->attempt) : crashed_with_.end();
    if (crash == crashed_with_.end() || end->reason != RecordAttemptEnd::Reason::failed) continue;
    if (still_out.empty())
      for (const AttemptView& view : reactor_->attempts()) still_out.insert(view.key);
    for (const AttemptKey& other : crash->second)
      require(!still_out.contains(other), "a job was blamed for a crash in a pack whose other jobs are still out");
  }
}

/// Only a crash ends several attempts as failed in one step.
void World::note_crashed_pack(const std::vector<Effect>& effects) {
  std::vector<JobId> crashed;
  for (const Effect& effect : effects)
    if (const auto* end = std::get_if<RecordAttemptEnd>(&effect);
        end && end->reason == RecordAttemptEnd::Reason::failed)
      crashed.push_back(end->attempt.job);
  if (crashed.size() < 2) return;
  for (const JobId& id : crashed) most_together_[id] = (crashed.size() + 1) / 2;
}

simulation::Report simulate(std::uint64_t seed, const simulation::Options& options) {
  return World(seed, options).run();
}

}  // namespace finesweep::coordinator
