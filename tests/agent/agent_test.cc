// The worker between a coordinator and a runner that are made up here.

#include "worker/agent/agent.h"

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

namespace finesweep::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

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
  void prepare(const Execute& execute, bool under_way) override {
    std::vector<AttemptKey>& pack = (under_way ? prepared : announced).emplace_back();
    for (const auto& member : execute.pack) pack.push_back(member.key());
  }
  void request_stop(const std::vector<AttemptKey>& attempts) override {
    stops.push_back(attempts);
    if (!obeys_stop) return;
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    for (const AttemptKey& attempt : std::vector(running)) finish(attempt, outcome);
  }
  void kill(const std::string& reason) override {
    killed_because = reason;
    Outcome outcome;
    outcome.error = reason;
    // As the pool does: never within the call.
    boost::asio::post(io_, [this, outcome] {
      for (const AttemptKey& attempt : std::vector(running)) finish(attempt, outcome, true);
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
  void finish(const AttemptKey& attempt, const Outcome& outcome, bool crashed = false) {
    std::erase(running, attempt);
    callbacks_.finished(attempt, outcome, crashed);
  }

  std::function<void()> on_start;
  std::vector<AttemptKey> running;  // what is not done
  std::vector<std::vector<AttemptKey>> announced, prepared;
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

/// A worker with a pack of three jobs, and another pack behind it.
class AgentPackTest : public AgentTest {
 protected:
  void SetUp() override { begin(60); }
  void begin(double no_progress_s) {
    coordinator.receive();
    coordinator.say(Welcome{kWorker, "/nowhere", 0.01, no_progress_s, 1});
    coordinator.dispatch({a.job, b.job, c.job});
    coordinator.dispatch({d.job});
  }
  /// Acknowledges what is said, and calls `next` with it.
  void hear(std::function<void(const Finished&)> next = {}) {
    coordinator.on_message = [this, next](const Message& message) {
      if (const auto* heartbeat = std::get_if<Heartbeat>(&message)) {
        held.clear();
        for (const auto& one : heartbeat->held) held.push_back(one.attempt);
        if (on_beat) on_beat();
      }
      if (const auto* over = std::get_if<Revoked>(&message)) revoked.push_back(over->attempt);
      const auto* said = std::get_if<Finished>(&message);
      if (!said || is_finished(said->attempt)) return;  // repeated until the acknowledgement arrives
      finished.push_back(*said);
      coordinator.say(Acknowledge{said->attempt, true});
      if (next) next(*said);
    };
  }

  void finish_next_pack_at_once() {
    runner.on_start = [this] {
      if (runner.packs == 2) boost::asio::post(io, [this] { runner.finish(Outcome{}); });
    };
  }
  bool is_finished(const AttemptKey& attempt) const {
    return std::any_of(finished.begin(), finished.end(),
                       [&](const Finished& one) { return one.attempt == attempt; });
  }

  const AttemptKey a{storage::sample_id("a"), 1}, b{storage::sample_id("b"), 1}, c{storage::sample_id("c"), 1},
      d{storage::sample_id("d"), 1};
  std::vector<Finished> finished;
  std::vector<AttemptKey> held;  // by the last heartbeat
  std::vector<AttemptKey> revoked;
  std::function<void()> on_beat;
};

TEST_F(AgentPackTest, the_next_pack_is_made_ready_once_the_first_is_under_way) {
  runner.on_start = [&] {
    if (runner.packs == 2) return boost::asio::post(io, [&] { runner.finish(Outcome{}); });
    EXPECT_THAT(runner.prepared, IsEmpty());
    boost::asio::post(io, [&] {
      EXPECT_THAT(runner.announced.back(), ElementsAre(d));
      runner.progress(a, 0);
      EXPECT_THAT(runner.prepared, IsEmpty());
      runner.progress(b, 1);
      runner.progress(b, 2);
      EXPECT_THAT(runner.prepared, ElementsAre(ElementsAre(d)));
      for (const AttemptKey& one : {a, b, c}) runner.finish(one, Outcome{});
    });
  };
  hear([&](const Finished&) {
    if (finished.size() == 4) coordinator.say(Stop{});
  });
  work();
  EXPECT_EQ(finished.size(), 4u);
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

TEST_F(AgentPackTest, each_result_is_told_as_it_comes_and_the_next_pack_begins_when_all_are_done) {
  runner.on_start = [&] {
    if (runner.packs == 1) {
      EXPECT_THAT(runner.running, ElementsAre(a, b, c));
    }
    boost::asio::post(io, [&] { runner.finish(runner.running.back(), Outcome{}); });
  };
  hear([&](const Finished&) {
    EXPECT_EQ(runner.packs, finished.size() > 3 ? 2 : 1);
    if (!runner.running.empty()) boost::asio::post(io, [&] { runner.finish(runner.running.back(), Outcome{}); });
    if (finished.size() == 4) coordinator.say(Stop{});
  });
  work();
  ASSERT_EQ(finished.size(), 4u);
  EXPECT_EQ(finished[0].attempt, c);
  EXPECT_EQ(finished[2].attempt, a);
  EXPECT_EQ(finished[3].attempt, d);
}

TEST_F(AgentPackTest, a_running_member_that_is_revoked_leaves_and_the_others_go_on) {
  hear([&](const Finished&) {
    if (finished.size() == 3) coordinator.say(Stop{});
  });
  finish_next_pack_at_once();
  int beats = 0;
  on_beat = [&] {
    if (++beats == 2) coordinator.say(Revoke{b});
    if (beats == 5) {
      EXPECT_THAT(runner.stops, ElementsAre(ElementsAre(b)));
      EXPECT_THAT(held, ElementsAre(a, b, c, d)) << "it still uses the device";
      EXPECT_THAT(revoked, IsEmpty());
      Outcome interrupted;
      interrupted.kind = OutcomeKind::interrupted;
      runner.finish(b, interrupted);
      EXPECT_THAT(revoked, ElementsAre(b));
      runner.finish(a, Outcome{});
      runner.finish(c, Outcome{});
    }
  };
  work();
  ASSERT_EQ(finished.size(), 3u) << "the end of the revoked one concerns nobody";
  EXPECT_EQ(finished[0].attempt, a);
  EXPECT_EQ(finished[1].attempt, c);
  EXPECT_EQ(runner.killed_because, "");
}

TEST_F(AgentPackTest, when_the_last_member_that_matters_is_revoked_the_runner_is_ended_and_the_next_pack_begins) {
  hear([&](const Finished&) { coordinator.say(Stop{}); });
  finish_next_pack_at_once();
  int beats = 0;
  on_beat = [&] {
    if (++beats != 2) return;
    for (const AttemptKey& attempt : {a, c, b}) coordinator.say(Revoke{attempt});
  };
  work();
  EXPECT_EQ(runner.killed_because, "revoked");
  EXPECT_THAT(revoked, ElementsAre(a, b, c)) << "as they end";
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0].attempt, d);
}

TEST_F(AgentPackTest, a_revoked_member_that_does_not_leave_is_not_waited_for_once_the_others_are_done) {
  hear([&](const Finished&) {
    if (finished.size() == 3) coordinator.say(Stop{});
  });
  finish_next_pack_at_once();
  int beats = 0;
  on_beat = [&] {
    if (++beats == 2) coordinator.say(Revoke{a});
    if (beats == 4) {
      runner.finish(b, Outcome{});
      runner.finish(c, Outcome{});
    }
  };
  work();
  EXPECT_EQ(runner.killed_because, "revoked");
  ASSERT_EQ(finished.size(), 3u);
  EXPECT_EQ(finished[2].attempt, d);
}

TEST_F(AgentPackTest, a_member_that_waits_and_is_revoked_is_left_out) {
  coordinator.say(Revoke{d});
  hear([&](const Finished&) {
    if (finished.size() == 3) coordinator.say(Stop{});
  });
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      for (const AttemptKey& attempt : {a, b, c}) runner.finish(attempt, Outcome{});
    });
  };
  work();
  EXPECT_EQ(runner.packs, 1);
  EXPECT_EQ(finished.size(), 3u);
  EXPECT_THAT(revoked, ElementsAre(d)) << "at once";
}

TEST_F(AgentPackTest, what_was_revoked_or_is_not_known_is_confirmed_whenever_it_is_revoked_again) {
  const AttemptKey unknown{storage::sample_id("unknown"), 3};
  for (const AttemptKey& attempt : {d, d, unknown}) coordinator.say(Revoke{attempt});
  hear([&](const Finished&) {
    if (finished.size() == 3) coordinator.say(Stop{});
  });
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      for (const AttemptKey& attempt : {a, b, c}) runner.finish(attempt, Outcome{});
    });
  };
  work();
  EXPECT_THAT(revoked, ElementsAre(d, d, unknown));
}

TEST_F(AgentPackTest, when_the_runner_dies_the_members_that_are_not_done_have_crashed) {
  hear([&](const Finished&) {
    if (finished.size() == 4) coordinator.say(Stop{});
  });
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      if (runner.packs > 1) return runner.finish(Outcome{});
      runner.finish(b, Outcome{});
      runner.kill("the runner process was ended by signal 9");
    });
  };
  work();
  ASSERT_EQ(finished.size(), 4u);
  EXPECT_FALSE(finished[0].crashed || finished[3].crashed);
  EXPECT_TRUE(finished[1].crashed && finished[2].crashed);
  EXPECT_EQ(finished[1].attempt, a);
  EXPECT_EQ(finished[2].attempt, c);
}

TEST_F(AgentPackTest, a_pack_is_ended_only_when_all_of_it_stands_still) {
  begin(0.5);
  hear([&](const Finished&) {
    if (finished.size() == 3) coordinator.say(Stop{});
  });
  std::int64_t beats = 0;
  bool was_alive = false;
  on_beat = [&] {
    // One of the three makes progress for over twice as long as nothing may happen.
    if (++beats < 110) runner.progress(b, beats);
    if (beats == 110) was_alive = runner.killed_because.empty() && finished.empty();
  };
  work();
  EXPECT_TRUE(was_alive);
  EXPECT_NE(runner.killed_because.find("made no progress"), std::string::npos);
  EXPECT_GE(finished.size(), 3u);  // the next one stands still too
  for (const Finished& one : finished) EXPECT_TRUE(one.crashed);
}

TEST_F(AgentPackTest, stop_interrupts_all_of_it_and_drops_what_waits) {
  hear();
  int beats = 0;
  on_beat = [&] {
    if (++beats == 2) coordinator.say(Stop{});
    if (beats != 4) return;
    Outcome interrupted;
    interrupted.kind = OutcomeKind::interrupted;
    for (const AttemptKey& attempt : {a, b, c}) runner.finish(attempt, interrupted);
  };
  work();
  EXPECT_THAT(runner.stops, ElementsAre(IsEmpty())) << "none named: all";
  EXPECT_EQ(finished.size(), 3u);
  EXPECT_EQ(runner.packs, 1);
}

/// A worker that may run three jobs together: two of them, and two packs that wait.
class AgentJoinTest : public AgentPackTest {
 protected:
  void SetUp() override {
    coordinator.receive();
    coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1, 3});
    dispatch({a, b}, 0);
    dispatch({c, d}, 0);
    dispatch({e}, 1);
    hear();
  }
  void dispatch(const std::vector<AttemptKey>& pack, int key) {
    Dispatch message{kWorker, {}};
    for (const AttemptKey& attempt : pack) {
      Assignment& one = message.pack.emplace_back();
      one.job.id = attempt.job;
      one.traits = {.key = key, .tokens = 1};
    }
    coordinator.say(message);
  }
  void finish_all_of_the_next_pack() {
    while (!runner.running.empty()) runner.finish(Outcome{});
    coordinator.say(Stop{});
  }

  const AttemptKey e{storage::sample_id("e"), 1};
};

TEST_F(AgentJoinTest, those_that_fit_join_once_half_of_the_pack_is_free) {
  std::vector<PackGrew> grew;
  const auto heard = coordinator.on_message;
  coordinator.on_message = [&](const Message& message) {
    if (const auto* said = std::get_if<PackGrew>(&message)) grew.push_back(*said);
    heard(message);
  };
  runner.on_start = [&] {
    if (runner.packs == 2) return boost::asio::post(io, [&] { finish_all_of_the_next_pack(); });
    boost::asio::post(io, [&] {
      EXPECT_THAT(runner.has_room(), IsEmpty()) << "two of three are there";
      runner.finish(a, Outcome{});
      EXPECT_THAT(runner.has_room(), ElementsAre(c, d));
      ASSERT_EQ(grew.size(), 1u);
      EXPECT_THAT(grew[0].pack, ElementsAre(b));
      EXPECT_THAT(grew[0].joined, ElementsAre(c, d));
      EXPECT_THAT(runner.announced.back(), ElementsAre(e)) << "the next one is made ready in their place";
      runner.finish(b, Outcome{});
      runner.finish(d, Outcome{});
      EXPECT_THAT(runner.has_room(), IsEmpty()) << "e is of another key";
      on_beat = [&, first = true]() mutable {
        if (!std::exchange(first, false)) return;
        EXPECT_THAT(held, testing::IsSupersetOf({c, e}));
        boost::asio::post(io, [&] { runner.finish(c, Outcome{}); });
      };
    });
  };
  work();
  EXPECT_EQ(runner.packs, 2);
  EXPECT_EQ(finished.size(), 5u);
}

TEST_F(AgentJoinTest, who_joined_and_is_revoked_leaves_as_the_others_do_and_a_dying_runner_takes_all) {
  runner.on_start = [&] {
    if (runner.packs == 2) return boost::asio::post(io, [&] { finish_all_of_the_next_pack(); });
    boost::asio::post(io, [&] {
      runner.finish(a, Outcome{});
      runner.has_room();
      coordinator.say(Revoke{d});
      on_beat = [&] {
        if (runner.stops.empty() || is_finished(b)) return;
        EXPECT_THAT(runner.stops, ElementsAre(ElementsAre(d)));
        runner.kill("died");
      };
    });
  };
  work();
  EXPECT_THAT(revoked, ElementsAre(d));
  for (const Finished& one : finished)
    EXPECT_EQ(one.crashed, one.attempt == b || one.attempt == c) << one.attempt.job.hex();
  EXPECT_EQ(finished.size(), 4u);
}

TEST_F(AgentJoinTest, nobody_joins_where_the_worker_is_to_stop) {
  runner.obeys_stop = false;
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      runner.finish(a, Outcome{});
      coordinator.say(Stop{});
      on_beat = [&] {
        if (runner.stops.empty() || is_finished(b)) return;
        EXPECT_THAT(runner.has_room(), IsEmpty());
        runner.finish(b, Outcome{});
      };
    });
  };
  work();
  EXPECT_EQ(runner.packs, 1);
  EXPECT_EQ(finished.size(), 2u);
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
