#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/reactor.h"

namespace finesweep::coordinator {

inline JobId id_of(const std::string& name) {
  return JobId::of(name);
}

inline Job make_job(const std::string& name, const std::vector<std::string>& needs = {}) {
  Job job;
  job.id = id_of(name);
  job.title = name;
  job.retries = 1;
  job.context = {{"model", "/models/base"}};
  for (const std::string& need : needs) job.inputs.push_back(id_of(need));
  return job;
}

/// A reactor with workers that do exactly what a test says.
class ReactorTest : public testing::Test {
 protected:
  using History = std::map<JobId, JobHistory>;

  void start(std::vector<Job> jobs, const History& history = {}) {
    jobs_ = std::move(jobs);
    reactor_.emplace(options_, jobs_, history);
    last_.clear();
  }
  /// Jobs that may all share a pack.
  void start_packable(std::vector<Job> jobs, const PackTraits& traits = {.key = 0, .tokens = 1}) {
    jobs_ = std::move(jobs);
    reactor_.emplace(options_, jobs_, History(), std::vector<PackTraits>(jobs_.size(), traits));
    last_.clear();
  }

  const std::vector<Effect>& handle(const Event& event) {
    last_ = reactor_->handle(event, now_);
    reactor_->sanity_check();
    for (const Effect& effect : last_)
      if (const auto* dispatch = std::get_if<SendDispatch>(&effect))
        for (const AttemptKey& attempt : dispatch->pack) newest_[attempt.job] = attempt;
    return last_;
  }

  WorkerId join(int rank, const std::string& host = "a", const std::string& device = "cpu") {
    const WorkerId worker{rank, ++incarnations_[rank]};
    handle(WorkerJoined{worker, {host, device}});
    return worker;
  }

  /// The newest attempt that was dispatched.
  AttemptKey attempt(const std::string& name) const { return newest_.at(id_of(name)); }

  static Outcome outcome(OutcomeKind kind, const std::string& error = "") {
    Outcome outcome;
    outcome.kind = kind;
    outcome.error = error;
    return outcome;
  }

  const std::vector<Effect>& finish(WorkerId worker, AttemptKey key, OutcomeKind kind = OutcomeKind::succeeded,
                                    const std::string& error = "") {
    return handle(AttemptFinished{worker, key, outcome(kind, error), false});
  }
  /// What goes on in one pack: the names of the jobs, pack by pack.
  std::vector<std::vector<std::string>> packs() const {
    std::vector<std::vector<std::string>> packs;
    std::int64_t number = 0;
    for (const AttemptView& out : reactor_->attempts()) {
      if (packs.empty() || out.pack != number) packs.emplace_back();
      number = out.pack;
      packs.back().push_back(reactor_->job(out.key.job).title);
    }
    return packs;
  }
  const std::vector<Effect>& crash(WorkerId worker, AttemptKey key) {
    return handle(AttemptFinished{worker, key, outcome(OutcomeKind::failed, "the runner died"), true});
  }
  /// The worker succeeds with the job, and the store commits it.
  void complete(WorkerId worker, const std::string& name) {
    finish(worker, attempt(name));
    handle(Published{attempt(name)});
  }
  const std::vector<Effect>& confirm(WorkerId worker, AttemptKey revoked) {
    return handle(AttemptRevoked{worker, revoked});
  }
  /// The worker says that it holds these and has come so far with the first.
  const std::vector<Effect>& beat(WorkerId worker, const std::vector<AttemptKey>& held, std::int64_t done = 0) {
    HeartbeatArrived event{worker, {}};
    for (const AttemptKey& key : held) {
      event.held.push_back({key, Progress{done, 10, "training", 0}});
      done = 0;
    }
    return handle(event);
  }

  JobView view(const std::string& name) const { return reactor_->view(id_of(name)); }
  JobPhase phase(const std::string& name) const { return view(name).phase; }

  template <typename T>
  std::vector<T> all() const {
    std::vector<T> found;
    for (const Effect& effect : last_)
      if (const auto* match = std::get_if<T>(&effect)) found.push_back(*match);
    return found;
  }
  /// The only effect of its type in the last answer.
  template <typename T>
  T only() const {
    const auto found = all<T>();
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? T{} : found.front();
  }
  template <typename T>
  bool none() const {
    return all<T>().empty();
  }
  bool acknowledged(AttemptKey key, bool accepted) const {
    for (const auto& ack : all<SendAcknowledge>())
      if (ack.attempt == key && ack.accepted == accepted) return true;
    return false;
  }

  ReactorOptions options_;
  Instant now_{0};
  std::vector<Job> jobs_;
  std::optional<Reactor> reactor_;
  std::vector<Effect> last_;
  std::map<JobId, AttemptKey> newest_;
  std::map<int, int> incarnations_;
};

}  // namespace finesweep::coordinator
