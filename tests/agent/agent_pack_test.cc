// A worker whose runner has several jobs at once, or one behind the other.

#include "tests/agent/agent_fixture.h"

namespace finesweep::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

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
      runner.kill(runner.running.front(), "the runner process was ended by signal 9");
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

/// The first pack has computed and is written, and the next one has begun.
class AgentWritesTest : public AgentPackTest {
 protected:
  void SetUp() override { begin(60); }
  void begin(double no_progress_s) {
    coordinator.receive();
    AgentPackTest::begin(no_progress_s);
    runner.on_start = [this] {
      if (runner.packs == 1) boost::asio::post(io, [this] { runner.computed(); });
    };
  }
  bool both_are_held() const { return held.size() == 4; }
};

TEST_F(AgentWritesTest, the_next_pack_begins_and_all_results_are_told_as_they_come) {
  hear([&](const Finished&) {
    if (finished.size() == 4) coordinator.say(Stop{});
  });
  on_beat = [&] {
    if (runner.packs < 2 || !finished.empty()) return;
    EXPECT_THAT(held, testing::UnorderedElementsAre(a, b, c, d));
    for (const AttemptKey& attempt : {b, d, a, c}) runner.finish(attempt, Outcome{});
  };
  work();
  ASSERT_EQ(finished.size(), 4u);
  EXPECT_EQ(finished[0].attempt, b);
  EXPECT_EQ(finished[1].attempt, d);
}

TEST_F(AgentWritesTest, who_is_revoked_while_it_is_written_ends_and_the_next_pack_goes_on) {
  hear([&](const Finished&) {
    if (finished.size() == 1) coordinator.say(Stop{});
  });
  int beats = 0;
  on_beat = [&] {
    if (!both_are_held()) {
      if (revoked.size() == 3 && finished.empty()) runner.finish(d, Outcome{});
    } else if (++beats == 1) {
      for (const AttemptKey& attempt : {a, b, c}) coordinator.say(Revoke{attempt});
    }
  };
  work();
  EXPECT_EQ(runner.killed_because, "revoked");
  EXPECT_THAT(revoked, testing::UnorderedElementsAre(a, b, c));
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0].attempt, d);
  EXPECT_FALSE(finished[0].crashed);
}

TEST_F(AgentWritesTest, files_that_do_not_come_to_an_end_are_not_waited_for) {
  begin(0.3);
  hear([&](const Finished&) {
    if (finished.size() == 4) coordinator.say(Stop{});
  });
  std::int64_t beats = 0;
  on_beat = [&] {
    if (runner.packs < 2 || runner.running.empty()) return;
    if (finished.size() == 3)
      runner.finish(d, Outcome{});
    else
      runner.progress(d, ++beats);  // the next pack gets on
  };
  work();
  ASSERT_EQ(finished.size(), 4u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(finished[i].crashed);
    EXPECT_NE(finished[i].outcome.error.find("made no progress"), std::string::npos);
  }
  EXPECT_FALSE(finished[3].crashed);
}

TEST_F(AgentWritesTest, a_worker_that_stops_waits_for_what_is_written) {
  hear();
  int beats = 0;
  on_beat = [&] {
    if (runner.packs < 2) return;
    if (++beats == 1) coordinator.say(Stop{});
    Outcome interrupted;
    interrupted.kind = OutcomeKind::interrupted;
    if (beats == 3) runner.finish(d, interrupted);
    if (beats == 5)
      for (const AttemptKey& attempt : {a, b, c}) runner.finish(attempt, Outcome{});
  };
  work();
  EXPECT_EQ(finished.size(), 4u);
}

TEST_F(AgentPackTest, a_job_whose_times_are_compared_begins_once_everything_is_written) {
  coordinator.receive();
  coordinator.say(Welcome{kWorker, "/nowhere", 0.01, 60, 1});
  coordinator.dispatch({a.job});
  Dispatch dispatch{kWorker, {Assignment{}}};
  dispatch.pack[0].job.id = d.job;
  dispatch.pack[0].job.isolate = true;
  coordinator.say(dispatch);
  runner.on_start = [&] {
    boost::asio::post(io, [&] {
      if (runner.packs == 1) {
        runner.computed();
        EXPECT_EQ(runner.packs, 1);
      }
      runner.finish(Outcome{});
    });
  };
  hear([&](const Finished&) {
    if (finished.size() == 2) coordinator.say(Stop{});
  });
  work();
  EXPECT_EQ(finished.size(), 2u);
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
        runner.kill(runner.running.front(), "died");
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

}  // namespace
}  // namespace finesweep::worker
