// The worker between a coordinator and a runner that are made up here.

#include "worker/agent/agent.h"

#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <optional>

#include "tests/storage/sample_plan.h"

namespace finesweep::worker {
namespace {

const WorkerId kWorker{1, 1};

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

  void dispatch(const JobId& job, AttemptNumber attempt) {
    Dispatch message{kWorker, {Assignment{}}};
    message.pack[0].job.id = job;
    message.pack[0].attempt = attempt;
    say(message);
  }

  std::function<void(const Message&)> on_message;
  bool is_closed = false;

 private:
  std::vector<Bytes> frames_;
};

class MadeUpRunner final : public JobRunner {
 public:
  void set_callbacks(Callbacks callbacks) override { callbacks_ = std::move(callbacks); }
  void start(const Execute& execute) override {
    attempt = AttemptKey{execute.job.id, execute.attempt};
    devices = execute.devices;
    if (on_start) on_start();
  }
  void request_stop() override {
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    finish(outcome);
  }
  void kill(const std::string& reason) override {
    killed_because = reason;
    Outcome outcome;
    outcome.error = reason;
    finish(outcome, true);
  }
  void release_device() override { ++released; }
  void shut_down() override {}

  void progress(std::int64_t done) { callbacks_.progress(*attempt, {done, 10, "training", 0}); }
  void finish(const Outcome& outcome, bool crashed = false) { callbacks_.finished(*attempt, outcome, crashed); }

  std::function<void()> on_start;
  std::optional<AttemptKey> attempt;
  std::string killed_because;
  std::vector<std::string> devices;
  int released = 0;

 private:
  Callbacks callbacks_;
};

class AgentTest : public testing::Test {
 protected:
  /// Welcomed by the coordinator, and given a job.
  void SetUp() override { begin(60); }
  void begin(double no_progress_s) {
    coordinator.receive();
    coordinator.say(Welcome{kWorker, "/nowhere", 0.01, no_progress_s, 1});
    coordinator.dispatch(job, 1);
  }
  /// Until the agent has said Goodbye, or has been deserted.
  void work() {
    agent.start();
    io.run_for(std::chrono::seconds(20));
    EXPECT_TRUE(io.stopped());
  }

  const JobId job = storage::sample_id("finetune 0");
  boost::asio::io_context io;
  MadeUpCoordinator coordinator;
  MadeUpRunner runner;
  Agent agent{io, coordinator, runner, {Hello{"node", 1, 0, "cpu"}}};
};

TEST_F(AgentTest, a_runner_that_makes_no_progress_is_ended_and_its_attempt_reported_as_crashed) {
  begin(0.3);
  std::optional<Finished> finished;
  coordinator.on_message = [&](const Message& message) {
    if (const auto* said = std::get_if<Finished>(&message); said && !finished) {
      finished = *said;
      coordinator.say(Acknowledge{said->attempt, true});
      coordinator.say(Stop{});
    }
  };
  work();
  ASSERT_TRUE(finished.has_value());
  EXPECT_TRUE(finished->crashed);
  EXPECT_NE(finished->outcome.error.find("made no progress"), std::string::npos) << finished->outcome.error;
}

TEST_F(AgentTest, a_runner_that_makes_progress_is_left_alone_however_long_it_takes) {
  begin(1);
  int heartbeats = 0;
  coordinator.on_message = [&](const Message& message) {
    if (std::holds_alternative<Heartbeat>(message) && runner.attempt) {
      // Over twice as long as nothing may happen, in small steps.
      runner.progress(++heartbeats);
      if (heartbeats == 220) runner.finish(Outcome{});
    }
    if (const auto* said = std::get_if<Finished>(&message); said) {
      coordinator.say(Acknowledge{said->attempt, true});
      coordinator.say(Stop{});
    }
  };
  work();
  EXPECT_EQ(runner.killed_because, "");
  EXPECT_GE(heartbeats, 220);
}

TEST_F(AgentTest, a_result_is_repeated_until_it_is_acknowledged) {
  runner.on_start = [&] { boost::asio::post(io, [&] { runner.finish(Outcome{}); }); };
  int times = 0;
  coordinator.on_message = [&](const Message& message) {
    const auto* said = std::get_if<Finished>(&message);
    if (!said || ++times < 4) return;
    coordinator.say(Acknowledge{said->attempt, true});
    coordinator.say(Stop{});
  };
  work();
  EXPECT_GE(times, 4);
}

TEST_F(AgentTest, what_a_worker_that_was_given_up_had_done_is_not_told_under_its_new_name) {
  bool rejoined = false;
  int results = 0;
  coordinator.on_message = [&](const Message& message) {
    if (std::holds_alternative<Heartbeat>(message) && runner.attempt && !rejoined) {
      rejoined = true;
      coordinator.say(Rejoin{});
      coordinator.say(Welcome{{1, 2}, "/nowhere", 0.01, 60, 1});
      coordinator.say(Stop{});
    }
    results += std::holds_alternative<Finished>(message);
  };
  work();
  EXPECT_EQ(results, 0);
  EXPECT_EQ(runner.killed_because, "this worker had been given up");
}

TEST_F(AgentTest, a_job_on_several_devices_is_given_them_and_a_lent_device_is_let_go_of) {
  coordinator.receive();
  coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
  coordinator.say(Lend{});
  Dispatch dispatch{kWorker, {Assignment{}}};
  dispatch.pack[0].job.id = job;
  dispatch.pack[0].devices = {"cuda:1", "cuda:3"};
  coordinator.say(dispatch);
  runner.on_start = [&] { boost::asio::post(io, [&] { runner.finish(Outcome{}); }); };
  coordinator.on_message = [&](const Message& message) {
    if (const auto* said = std::get_if<Finished>(&message)) {
      coordinator.say(Acknowledge{said->attempt, true});
      coordinator.say(Stop{});
    }
  };
  work();
  EXPECT_EQ(runner.devices, (std::vector<std::string>{"cuda:1", "cuda:3"}));
  EXPECT_EQ(runner.released, 1);
}

TEST_F(AgentTest, frames_that_make_no_sense_are_passed_over) {
  runner.on_start = [&] { boost::asio::post(io, [&] { runner.finish(Outcome{}); }); };
  coordinator.say(Hello{});  // what a worker says
  coordinator.say_bytes({'n', 'o', ' ', 'f', 'r', 'a', 'm', 'e'});
  coordinator.say(StopExecution{});  // what a runner is told
  coordinator.on_message = [&](const Message& message) {
    if (const auto* said = std::get_if<Finished>(&message)) {
      coordinator.say(Acknowledge{said->attempt, true});
      coordinator.say(Stop{});
    }
  };
  work();
}

TEST_F(AgentTest, one_that_is_to_leave_checkpoints_what_runs_waits_for_its_acknowledgement_and_says_goodbye) {
  coordinator.dispatch(storage::sample_id("waits"), 1);
  runner.on_start = [&] { boost::asio::post(io, [&] { agent.leave(); }); };
  std::vector<std::string> said;
  coordinator.on_message = [&](const Message& message) {
    if (const auto* finished = std::get_if<Finished>(&message)) {
      said.emplace_back(outcome_kind_name(finished->outcome.kind));
      if (said.size() == 3) coordinator.say(Acknowledge{finished->attempt, true});
    }
    if (std::holds_alternative<Goodbye>(message)) said.emplace_back("goodbye");
  };
  work();
  EXPECT_EQ(said, (std::vector<std::string>{"interrupted", "interrupted", "interrupted", "goodbye"}));
  EXPECT_FALSE(agent.deserted());
}

TEST_F(AgentTest, where_the_link_closes_it_is_deserted_at_once) {
  runner.on_start = [&] { coordinator.is_closed = true; };
  work();
  EXPECT_TRUE(agent.deserted());
}

TEST_F(AgentTest, a_link_that_closes_behind_the_coordinators_stop_deserts_nobody) {
  coordinator.receive();
  coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
  coordinator.say(Stop{});
  coordinator.is_closed = true;
  work();
  EXPECT_FALSE(agent.deserted());
}

}  // namespace
}  // namespace finesweep::worker
