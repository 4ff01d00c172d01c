#include "worker/agent/agent.h"

#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <optional>

#include "jobs/crash_point.h"
#include "storage/run_directory.h"

namespace finesweep::worker {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::microseconds;

namespace {

// MPI cannot wake a thread, so the link is looked at: at once while words are exchanged, and seldom when all is
// quiet.
constexpr microseconds kShortestLook{50};
constexpr microseconds kLongestLook{5000};
// Silence after which the coordinator is taken for dead. Before its first word it reads models and data.
constexpr std::chrono::seconds kSilence{120}, kFirstSilence{3600};

}  // namespace

struct Agent::Impl {
  Impl(boost::asio::io_context& io, CoordinatorLink& link, JobRunner& runner, Options options)
      : io(io), link(link), runner(runner), options(std::move(options)), look_timer(io), heartbeat_timer(io) {}

  boost::asio::io_context& io;
  CoordinatorLink& link;
  JobRunner& runner;
  Options options;
  boost::asio::steady_timer look_timer, heartbeat_timer;
  microseconds look_delay = kShortestLook;

  std::optional<Welcome> welcome;  // absent until the coordinator has answered Hello
  std::deque<Assignment> queue;    // waiting, in the order of dispatch
  struct Running {
    AttemptKey attempt;
    Progress progress;
    Clock::time_point moved;  // when progress last changed
    bool revoked = false;     // its end concerns nobody
  };
  std::optional<Running> running;
  std::map<AttemptKey, Finished> unacknowledged;
  bool stopping = false, ended = false;
  Clock::time_point heard = Clock::now();  // when the coordinator last gave a sign of life
  bool deserted = false;

  void send(const Message& message) {
    look_delay = kShortestLook;
    link.send(encode(message));
  }

  void look() {
    const auto frames = link.receive();
    look_delay = frames.empty() ? std::min(look_delay * 2, kLongestLook) : kShortestLook;
    if (!frames.empty()) heard = Clock::now();
    if (Clock::now() - heard > (welcome ? kSilence : kFirstSilence))
      return desert("the coordinator gave no sign of life for long");
    for (const Bytes& bytes : frames) {
      auto message = decode(bytes.data(), bytes.size());
      if (!message) {
        spdlog::warn("a frame from the coordinator was refused: {}", message.error().message);
        continue;
      }
      std::visit([this](auto& m) { receive(m); }, *message);
    }
    if (ended) return;
    if (link.closed()) return desert("the coordinator is gone");
    look_timer.expires_after(look_delay);
    look_timer.async_wait([this](const boost::system::error_code& error) {
      if (!error) look();
    });
  }

  /// The coordinator died under a launcher that keeps the other ranks (srun), or this worker had joined it. What
  /// runs goes on from its checkpoint in the sweep's next life.
  void desert(const char* why) {
    spdlog::error("{}: this worker lets go of its jobs", why);
    deserted = true;
    runner.shut_down();
    heartbeat_timer.cancel();
    io.stop();
  }

  void receive(const Alive&) {}

  void receive(const Welcome& message) {
    welcome = message;
    beat();
  }

  void receive(Dispatch& message) {
    if (!welcome || message.worker != welcome->worker) return;  // meant for an earlier stay of this worker
    for (Assignment& assignment : message.pack) queue.push_back(std::move(assignment));
    crash_point("worker.dispatched");
    run_next();
  }

  void receive(const Acknowledge& message) {
    unacknowledged.erase(message.attempt);
    crash_point("worker.acknowledged");
    finish_stopping();
  }

  void receive(const Revoke& message) {
    std::erase_if(queue, [&](const Assignment& a) { return AttemptKey{a.job.id, a.attempt} == message.attempt; });
    unacknowledged.erase(message.attempt);
    finish_stopping();
    if (running && running->attempt == message.attempt && !running->revoked) {
      running->revoked = true;
      runner.kill("revoked");
    }
  }

  void receive(const Lend&) {
    if (!running) runner.release_device();
  }

  void receive(const Stop&) { stop(); }

  void stop() {
    stopping = true;
    queue.clear();
    if (running) runner.request_stop();
    finish_stopping();
  }

  void receive(const Rejoin&) {
    queue.clear();
    unacknowledged.clear();
    if (running && !running->revoked) {
      running->revoked = true;
      runner.kill("this worker had been given up");
    }
    welcome.reset();
    if (stopping)
      finish_stopping();
    else
      send(options.hello);
  }

  template <typename Other>
  void receive(const Other&) {
    spdlog::warn("a message that is not for a worker was refused");
  }

  void run_next() {
    if (running || queue.empty() || !welcome || stopping) return;
    const Assignment assignment = std::move(queue.front());
    queue.pop_front();
    const AttemptKey attempt{assignment.job.id, assignment.attempt};
    running = Running{attempt, {}, Clock::now(), false};

    const storage::RunDirectory directory(welcome->run_directory);
    Execute execute;
    execute.job = assignment.job;
    execute.attempt = assignment.attempt;
    execute.staging = directory.staging(attempt).string();
    for (const JobId& input : assignment.job.inputs)
      execute.artifacts[input.hex()] = directory.artifact(input).string();
    if (assignment.job.continues)
      execute.artifacts[assignment.job.continues->hex()] = directory.artifact(*assignment.job.continues).string();
    for (AttemptNumber n = assignment.attempt - 1; n > 0; --n) {
      const auto checkpoints = directory.staging({assignment.job.id, n}) / "checkpoints";
      std::error_code ignored;
      if (std::filesystem::exists(checkpoints, ignored))
        execute.earlier_checkpoints.push_back(checkpoints.string());
    }
    execute.log = directory.log(attempt).string();
    execute.threads = welcome->threads;
    execute.cache = directory.cache().string();
    execute.devices = assignment.devices;
    runner.start(execute);
    crash_point("worker.started");
  }

  void on_progress(const AttemptKey& attempt, const Progress& progress) {
    if (!running || running->attempt != attempt) return;
    if (progress.done != running->progress.done || progress.phase != running->progress.phase)
      running->moved = Clock::now();
    running->progress = progress;
  }

  void on_finished(const AttemptKey& attempt, Outcome outcome, bool crashed) {
    const bool concerns_us = running && running->attempt == attempt && !running->revoked && welcome;
    running.reset();
    if (concerns_us) {
      Finished finished{welcome->worker, attempt, std::move(outcome), crashed};
      crash_point("worker.before_result");
      send(finished);
      crash_point("worker.result_sent");
      unacknowledged.emplace(attempt, std::move(finished));
    }
    run_next();
    finish_stopping();
  }

  void beat() {
    if (welcome) {
      Heartbeat heartbeat{welcome->worker, {}};
      if (running && !running->revoked) {
        heartbeat.held.push_back({running->attempt, running->progress});
        const std::chrono::duration<double> still = Clock::now() - running->moved;
        if (still.count() > welcome->no_progress_s)
          runner.kill("made no progress for " + std::to_string(static_cast<int>(welcome->no_progress_s)) + " s");
      }
      for (const Assignment& waiting : queue) heartbeat.held.push_back({{waiting.job.id, waiting.attempt}, {}});
      for (const auto& [attempt, finished] : unacknowledged) {
        heartbeat.held.push_back({attempt, {}});
        send(finished);
      }
      send(heartbeat);
      heartbeat_timer.expires_after(
          duration_cast<Clock::duration>(std::chrono::duration<double>(welcome->heartbeat_s)));
      heartbeat_timer.async_wait([this](const boost::system::error_code& error) {
        if (!error) beat();
      });
    }
  }

  void finish_stopping() {
    if (!stopping || ended || running || !unacknowledged.empty()) return;
    ended = true;
    crash_point("worker.before_goodbye");
    if (welcome) send(Goodbye{welcome->worker});
    link.receive();  // moves the farewell on
    crash_point("worker.left");
    runner.shut_down();
    look_timer.cancel();
    heartbeat_timer.cancel();
    io.stop();
  }
};

Agent::Agent(boost::asio::io_context& io, CoordinatorLink& link, JobRunner& runner, Options options)
    : impl_(std::make_unique<Impl>(io, link, runner, std::move(options))) {
  runner.set_callbacks(
      {[this](const AttemptKey& a, const Progress& p) { impl_->on_progress(a, p); },
       [this](const AttemptKey& a, Outcome o, bool c) { impl_->on_finished(a, std::move(o), c); }});
}

Agent::~Agent() = default;

void Agent::start() {
  impl_->send(impl_->options.hello);
  impl_->look();
}

void Agent::leave() {
  impl_->stop();
}

bool Agent::deserted() const {
  return impl_->deserted;
}

std::string Agent::run_directory() const {
  return impl_->welcome ? impl_->welcome->run_directory : "";
}

}  // namespace finesweep::worker
