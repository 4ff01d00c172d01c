// The worker between a coordinator and a runner that are made up.

#include "tests/agent/agent_fixture.h"

namespace finesweep::worker {
namespace {

using testing::ElementsAre;

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
    if (std::holds_alternative<Heartbeat>(message) && !runner.running.empty()) {
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
    if (std::holds_alternative<Heartbeat>(message) && !runner.running.empty() && !rejoined) {
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

TEST_F(AgentTest, one_that_is_told_twice_that_it_was_given_up_begins_one_new_stay) {
  int hellos = 0;
  bool rejoined = false;
  coordinator.on_message = [&](const Message& message) {
    if (std::holds_alternative<Heartbeat>(message) && !std::exchange(rejoined, true)) coordinator.say(Rejoin{});
    if (std::holds_alternative<Hello>(message) && ++hellos == 2) {
      coordinator.say(Rejoin{});  // sent before the Hello was heard
      coordinator.say(Welcome{{1, 2}, "/nowhere", 0.01, 60, 1});
      coordinator.say(Stop{});
    }
  };
  work();
  EXPECT_EQ(hellos, 2) << "at the start and once again";
}

TEST_F(AgentTest, one_that_was_given_up_says_hello_once_its_runner_has_ended) {
  bool rejoined = false;
  coordinator.on_message = [&](const Message& message) {
    if (std::holds_alternative<Heartbeat>(message) && !runner.running.empty() && !std::exchange(rejoined, true))
      coordinator.say(Rejoin{});
    if (std::holds_alternative<Hello>(message) && rejoined) {
      EXPECT_TRUE(runner.running.empty());
      coordinator.say(Welcome{{1, 2}, "/nowhere", 0.01, 60, 1});
      coordinator.say(Stop{});
    }
  };
  work();
  EXPECT_TRUE(rejoined);
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
  coordinator.dispatch({storage::sample_id("waits")});
  runner.obeys_stop = true;
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

TEST_F(AgentTest, beside_a_job_whose_times_are_compared_nothing_is_made_ready) {
  coordinator.receive();
  coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
  for (const char* name : {"isolated", "benchmark", "other"}) {
    Dispatch dispatch{kWorker, {Assignment{}}};
    dispatch.pack[0].job.id = storage::sample_id(name);
    dispatch.pack[0].job.isolate = name == std::string("isolated");
    if (name == std::string("benchmark")) dispatch.pack[0].job.kind = StepKind::benchmark;
    coordinator.say(dispatch);
  }
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      runner.progress(1);
      runner.finish(Outcome{});
    });
  };
  std::size_t results = 0;
  coordinator.on_message = [&](const Message& message) {
    if (const auto* said = std::get_if<Finished>(&message)) {
      coordinator.say(Acknowledge{said->attempt, true});
      if (++results == 3) coordinator.say(Stop{});
    }
  };
  work();
  EXPECT_THAT(runner.announced, IsEmpty());
  EXPECT_THAT(runner.prepared, IsEmpty());
}

TEST_F(AgentTest, a_worker_on_a_gpu_says_hello_once_it_knows_the_memory_and_one_on_a_cpu_at_once) {
  std::vector<Hello> hellos;
  coordinator.receive();
  coordinator.on_message = [&](const Message& message) {
    if (const auto* hello = std::get_if<Hello>(&message)) {
      hellos.push_back(*hello);
      coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
      coordinator.say(Stop{});
    }
  };
  boost::asio::post(io, [&] {
    EXPECT_TRUE(hellos.empty());
    runner.ready({{"device", "cuda:0"}, {"memory_mb", 81559.5}});
  });
  work_on("cuda:0");
  ASSERT_EQ(hellos.size(), 1u);
  EXPECT_EQ(hellos[0].memory_mb, 81559.5);

  io.restart();
  work_on("cpu");
  ASSERT_EQ(hellos.size(), 2u);
  EXPECT_EQ(hellos[1].memory_mb, 0);
}

TEST_F(AgentTest, a_worker_whose_runner_cannot_say_what_its_gpu_is_says_hello_all_the_same) {
  std::vector<Hello> hellos;
  coordinator.receive();
  coordinator.on_message = [&](const Message& message) {
    if (const auto* hello = std::get_if<Hello>(&message)) {
      hellos.push_back(*hello);
      coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
      coordinator.say(Stop{});
    }
  };
  boost::asio::post(io, [&] { runner.ready(Json::object()); });
  work_on("cuda:0");
  ASSERT_EQ(hellos.size(), 1u);
  EXPECT_EQ(hellos[0].memory_mb, 0);
}

}  // namespace
}  // namespace finesweep::worker
