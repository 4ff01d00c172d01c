#pragma once

// An agent between a coordinator and a runner that are made up here.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "tests/storage/sample_plan.h"
#include "worker/agent/agent.h"

namespace finesweep::worker {

inline const WorkerId kWorker{1, 1};

/// Says what it is told to, and keeps what it hears.
class MadeUpCoordinator final : public CoordinatorLink {
 public:
  void say(const Message& message) { say_bytes(encode(message)); }
  void say_bytes(Bytes bytes) { frames_.push_back(std::move(bytes)); }
  void send(Bytes frame) override {
    auto message = decode(frame.data(), frame.size());
    ASSERT_TRUE(message.ok());
    if (on_message) on_message(*message);
  }
  std::vector<Bytes> receive() override { return std::exchange(frames_, {}); }
  bool closed() const override { return is_closed && frames_.empty(); }

  void dispatch(const std::vector<JobId>& pack) {
    Dispatch message{kWorker, {}};
    for (const JobId& job : pack) message.pack.emplace_back().job.id = job;
    say(message);
  }

  std::function<void(const Message&)> on_message;
  bool is_closed = false;

 private:
  std::vector<Bytes> frames_;
};

class MadeUpRunner final : public JobRunner {
 public:
  explicit MadeUpRunner(boost::asio::io_context& io) : io_(io) {}
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  void start(const Execute& execute) override {
    EXPECT_TRUE(running.empty());
    for (const auto& member : execute.pack) running.push_back(member.key());
    devices = execute.devices;
    ++packs;
    if (on_start) on_start();
  }
  void prepare(const std::vector<Execute>& next, bool under_way) override {
    behind.clear();
    for (const Execute& execute : next) {
      behind.emplace_back();
      for (const auto& member : execute.pack) behind.back().push_back(member.key());
    }
    if (!behind.empty()) (under_way ? prepared : announced).push_back(behind.front());
  }
  void request_stop(const std::vector<AttemptKey>& attempts) override {
    stops.push_back(attempts);
    if (!obeys_stop) return;
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    for (const AttemptKey& attempt : std::vector(running)) finish(attempt, outcome);
  }
  void kill(const AttemptKey& attempt, const std::string& reason) override {
    killed_because = reason;
    Outcome outcome;
    outcome.error = reason;
    const bool computes = std::ranges::find(running, attempt) != running.end();
    EXPECT_TRUE(computes || std::ranges::find(written, attempt) != written.end());
    // As the pool does: never within the call.
    boost::asio::post(io_, [this, outcome, pack = computes ? running : written] {
      for (const AttemptKey& member : pack) finish(member, outcome, true);
    });
  }
  void release_device() override { ++released; }
  void shut_down() override {}

  void ready(const Json& device) { callbacks_.ready(device); }
  void progress(std::int64_t done) { progress(running.front(), done); }
  void progress(const AttemptKey& attempt, std::int64_t done) {
    callbacks_.progress(attempt, {done, 10, "training", 0});
  }
  void finish(const Outcome& outcome) { finish(running.front(), outcome); }
  std::vector<AttemptKey> has_room() {
    std::vector<AttemptKey> joined;
    for (const auto& member : callbacks_.has_room()) joined.push_back(member.key());
    running.insert(running.end(), joined.begin(), joined.end());
    return joined;
  }
  /// What runs only writes from now on.
  void computed() {
    written = std::exchange(running, {});
    callbacks_.computed();
    if (running.empty()) running = std::exchange(written, {});  // the next one was not begun
  }
  void finish(const AttemptKey& attempt, const Outcome& outcome, bool crashed = false) {
    std::erase(running, attempt);
    std::erase(written, attempt);
    callbacks_.finished(attempt, outcome, crashed);
  }

  std::function<void()> on_start;
  std::vector<AttemptKey> running;                           // what is not done
  std::vector<AttemptKey> written;                           // of the pack before
  std::vector<std::vector<AttemptKey>> behind;               // what is to come, as it was last said
  std::vector<std::vector<AttemptKey>> announced, prepared;  // the first of it, whenever it was said
  int packs = 0;
  std::vector<std::vector<AttemptKey>> stops;
  bool obeys_stop = false;
  std::string killed_because;
  std::vector<std::string> devices;
  int released = 0;

 private:
  boost::asio::io_context& io_;
  Callbacks callbacks_;
};

class AgentTest : public testing::Test {
 protected:
  /// Welcomed by the coordinator, and given a job.
  void SetUp() override { begin(60); }
  void begin(double no_progress_s) {
    coordinator.receive();
    coordinator.say(Welcome{kWorker, "/nowhere", 0.01, no_progress_s, 1});
    coordinator.dispatch({job});
  }
  /// Until the agent has said Goodbye, or has been deserted.
  void work() { work(agent); }
  void work_on(const std::string& device) {
    Agent another(io, coordinator, runner, {Hello{"node", 1, 0, device}});
    work(another);
  }
  void work(Agent& agent) {
    agent.start();
    io.run_for(std::chrono::seconds(20));
    EXPECT_TRUE(io.stopped());
  }

  const JobId job = storage::sample_id("finetune 0");
  boost::asio::io_context io;
  MadeUpCoordinator coordinator;
  MadeUpRunner runner{io};
  Agent agent{io, coordinator, runner, {Hello{"node", 1, 0, "cpu"}}};
};

}  // namespace finesweep::worker
