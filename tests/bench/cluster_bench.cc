// What the coordinator's decisions cost in a large cluster: the real reactor under virtual time. Workers run their
// jobs, send heartbeats, die now and then and come back; results are published in rounds, as the driver commits
// them.
//
//   cluster_bench [WORKERS] [JOBS...]      default 1000 workers; 10000, 100000 and 1000000 jobs
//
// Sweeps of three jobs a trial (a training and two evaluations of it). Time is that spent in the reactor alone;
// memory is what the process grew by, jobs included.

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <queue>
#include <random>
#include <vector>

#include "coordinator/reactor.h"

namespace {

using namespace finesweep;
using namespace finesweep::coordinator;
using namespace std::chrono_literals;

constexpr Duration kHeartbeat = 1s, kRound = 2ms, kAway = 45s;
constexpr double kMeanJob_s = 10, kMeanLife_s = 20000;

std::int64_t resident_kib() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t pages = 0, resident = 0;
  statm >> pages >> resident;
  return resident * 4;
}

std::vector<Job> make_jobs(int count) {
  std::vector<Job> jobs;
  for (int i = 0; i < count; ++i) {
    Job job;
    job.id = JobId::of(std::to_string(i));
    job.kind = i % 3 == 0 ? StepKind::finetune : StepKind::evaluate;
    job.context = {{"model", "/models/" + std::to_string(i / 3 % 7)}};
    job.settings = {{"learning_rate", 1e-4 * i}, {"rank", 8}, {"alpha", 16}, {"epochs", 3}, {"batch_size", 16}};
    if (i % 3 > 0) job.inputs.push_back(jobs[static_cast<std::size_t>(i - i % 3)].id);
    jobs.push_back(std::move(job));
  }
  return jobs;
}

class Cluster {
 public:
  Cluster(int workers, int jobs) : job_count_(jobs), workers_(static_cast<std::size_t>(workers)), random_(1) {}

  void run() {
    const std::int64_t before = resident_kib();
    const auto jobs = make_jobs(job_count_);
    const auto started = std::chrono::steady_clock::now();
    reactor_.emplace(ReactorOptions{}, jobs, std::map<JobId, JobHistory>{});
    const std::chrono::duration<double> construction = std::chrono::steady_clock::now() - started;
    for (int i = 0; i < static_cast<int>(workers_.size()); ++i) join(i);
    while (!reactor_->ended() && !schedule_.empty()) {
      const Scheduled next = schedule_.top();
      schedule_.pop();
      now_ = next.time;
      happen(next);
    }
    const auto counts = reactor_->counts();
    std::cout << fmt::format(
        "{:>8} jobs, {} workers: {:.2f} s to take in, {:.2f} us a job ({} events of {:.2f} us, {} losses), {} MiB, "
        "{:.0f} s of virtual time, {} succeeded{}\n",
        job_count_, workers_.size(), construction.count(), 1e6 * spent_.count() / job_count_, events_,
        1e6 * spent_.count() / static_cast<double>(events_), losses_, (resident_kib() - before) / 1024,
        std::chrono::duration<double>(now_).count(), counts.succeeded, reactor_->ended() ? "" : ", NOT ENDED");
  }

 private:
  enum class What { heartbeat, finish, commit, lose, join };
  struct Scheduled {
    Instant time;
    What what;
    int worker;
    int stay;  // of the worker: what an earlier one had planned does not happen
    bool operator<(const Scheduled& other) const { return time > other.time; }
  };
  struct Worker {
    int stay = 0;
    bool there = false;
    std::deque<AttemptKey> queue;
    Instant begun{};
  };

  void plan(Duration delay, What what, int worker) {
    schedule_.push({now_ + delay, what, worker, worker < 0 ? 0 : workers_[static_cast<std::size_t>(worker)].stay});
  }
  Duration random_time(double mean_s) {
    const double seconds = std::exponential_distribution<double>(1 / mean_s)(random_);
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  }
  Worker& worker(int i) { return workers_[static_cast<std::size_t>(i)]; }
  WorkerId id(int i) { return {i + 1, worker(i).stay}; }

  void happen(const Scheduled& next) {
    if (next.what == What::commit) {
      commit_planned_ = false;
      for (const AttemptKey& attempt : std::exchange(published_, {})) handle(Published{attempt});
      return;
    }
    const int i = next.worker;
    if (next.what == What::join) return join(i);
    if (next.stay != worker(i).stay || !worker(i).there) return;
    switch (next.what) {
      case What::heartbeat: {
        HeartbeatArrived event{id(i), {}};
        for (const AttemptKey& held : worker(i).queue) event.held.emplace_back(held, Progress{});
        if (!event.held.empty()) event.held.front().second = {(now_ - worker(i).begun) / 100ms, 0, "training", 0};
        handle(event);
        plan(kHeartbeat, What::heartbeat, i);
        break;
      }
      case What::finish: {
        Outcome success;
        success.kind = OutcomeKind::succeeded;
        success.metrics["accuracy"] = 0.5;
        if (worker(i).queue.empty()) return;
        const AttemptKey attempt = worker(i).queue.front();
        worker(i).queue.pop_front();
        begin(i);
        handle(AttemptFinished{id(i), attempt, std::move(success), false});
        break;
      }
      case What::lose: {
        const WorkerId lost = id(i);
        worker(i).there = false;
        worker(i).queue.clear();
        ++losses_;
        handle(WorkerLost{lost, "it died"});
        plan(kAway, What::join, i);
        break;
      }
      default:
        break;
    }
  }

  void join(int i) {
    ++worker(i).stay;
    worker(i).there = true;
    handle(WorkerJoined{id(i), {"host" + std::to_string(i / 8), "cpu"}});
    plan(kHeartbeat, What::heartbeat, i);
    plan(random_time(kMeanLife_s), What::lose, i);
  }

  void begin(int i) {
    if (worker(i).queue.empty()) return;
    worker(i).begun = now_;
    plan(random_time(kMeanJob_s), What::finish, i);
  }

  void handle(const Event& event) {
    ++events_;
    const auto started = std::chrono::steady_clock::now();
    const auto effects = reactor_->handle(event, now_);
    spent_ += std::chrono::steady_clock::now() - started;
    std::vector<SendRevoke> revoked;
    for (const Effect& effect : effects) {
      if (const auto* dispatch = std::get_if<SendDispatch>(&effect)) {
        const int i = dispatch->worker.rank - 1;
        if (id(i) != dispatch->worker || !worker(i).there) continue;
        const bool idle = worker(i).queue.empty();
        worker(i).queue.insert(worker(i).queue.end(), dispatch->pack.begin(), dispatch->pack.end());
        if (idle) begin(i);
      } else if (const auto* revoke = std::get_if<SendRevoke>(&effect)) {
        const int i = revoke->worker.rank - 1;
        if (id(i) != revoke->worker) continue;
        // Only what waits is taken away here.
        std::erase(worker(i).queue, revoke->attempt);
        revoked.push_back(*revoke);
      } else if (const auto* publish = std::get_if<Publish>(&effect)) {
        published_.push_back(publish->attempt);
        if (!std::exchange(commit_planned_, true)) plan(kRound, What::commit, -1);
      }
    }
    for (const SendRevoke& revoke : revoked) handle(AttemptRevoked{revoke.worker, revoke.attempt});
  }

  int job_count_;
  std::vector<Worker> workers_;
  std::mt19937_64 random_;
  std::optional<Reactor> reactor_;
  std::priority_queue<Scheduled> schedule_;
  std::vector<AttemptKey> published_;
  bool commit_planned_ = false;
  Instant now_{0};
  std::chrono::duration<double> spent_{0};
  std::int64_t events_ = 0, losses_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const int workers = argc > 1 ? std::atoi(argv[1]) : 1000;
  std::vector<int> sizes;
  for (int i = 2; i < argc; ++i) sizes.push_back(std::atoi(argv[i]));
  if (sizes.empty()) sizes = {10'000, 100'000, 1'000'000};
  for (const int jobs : sizes) Cluster(workers, jobs).run();
}
