// Runners that misbehave, made up as scripts: the worker ends them, and their attempt with them.

#include "worker/agent/runner_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <optional>

#include "tests/storage/temporary_folder.h"

namespace finesweep::worker {
namespace {

using testing::HasSubstr;

class RunnerPoolTest : public testing::Test {
 protected:
  struct Ended {
    Outcome outcome;
    bool crashed;
  };
  /// `script` is the runner: its socket is descriptor 3. Returns how its attempt ended.
  std::optional<Ended> run(const std::string& script, const std::function<void(RunnerPool&)>& meanwhile = {}) {
    const auto program = folder / "runner";
    storage::write_plainly(program, "#!/bin/sh\necho $$ > " + (folder / "pid").string() + "\n" + script + "\n");
    ::chmod(program.c_str(), 0755);
    boost::asio::io_context io;
    RunnerPool pool(io, {program.string(), "cuda:0"});  // one runner for all jobs, no spare
    std::optional<Ended> ended;
    pool.set_callbacks({{},
                        [](const AttemptKey&, const Progress&) {},
                        [&](const AttemptKey& attempt, Outcome outcome, bool crashed) {
                          EXPECT_EQ(attempt.number, 3);
                          ended = Ended{std::move(outcome), crashed};
                          io.stop();
                        }});
    Execute execute;
    execute.pack.emplace_back().attempt = 3;
    pool.start(execute);
    if (meanwhile) meanwhile(pool);
    io.run_for(std::chrono::seconds(20));
    return ended;
  }
  bool runner_is_gone() const {
    std::ifstream file(folder / "pid");
    pid_t pid = 0;
    file >> pid;
    return pid > 0 && ::kill(pid, 0) != 0;
  }

  storage::TemporaryFolder folder;
};

TEST_F(RunnerPoolTest, one_that_sends_garbage_is_ended) {
  const auto ended = run("printf 'this is no frame at all' >&3; exec sleep 100");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("sent bytes that are no frame"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_announces_an_absurd_length_is_ended_before_it_is_believed) {
  const auto ended = run(R"(printf 'FSWP\002\000\041\000\377\377\377\377\000\000\000\000' >&3; exec sleep 100)");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_THAT(ended->outcome.error, HasSubstr("frame of 4294967295 bytes"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_of_another_version_is_ended_with_what_to_do) {
  const auto ended = run(R"(printf 'FSWP\007\000\041\000\000\000\000\000\000\000\000\000' >&3; exec sleep 100)");
  ASSERT_TRUE(ended.has_value());
  EXPECT_THAT(ended->outcome.error, HasSubstr("protocol version 7"));
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_hangs_and_closes_its_socket_is_ended) {
  const auto ended = run("exec 3>&-; exec sleep 100");
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_TRUE(runner_is_gone());
}

TEST_F(RunnerPoolTest, one_that_ends_by_itself_tells_how) {
  EXPECT_THAT(run("exit 3")->outcome.error, HasSubstr("exit code 3"));
  EXPECT_THAT(run("kill -SEGV $$")->outcome.error, HasSubstr("signal 11"));
}

TEST_F(RunnerPoolTest, one_that_is_killed_for_a_reason_ends_with_that_reason_though_it_ignores_signals) {
  const auto ended = run("trap '' TERM INT HUP; while :; do sleep 1; done",
                         [](RunnerPool& pool) { pool.kill("made no progress for 7 s"); });
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->crashed);
  EXPECT_EQ(ended->outcome.error, "made no progress for 7 s");
}

TEST_F(RunnerPoolTest, a_program_that_is_not_there_fails_the_attempt) {
  boost::asio::io_context io;
  RunnerPool pool(io, {(folder / "nothing").string(), "cpu"});
  std::string error;
  std::optional<Json> device;
  pool.set_callbacks({[&](const Json& said) { device = said; },
                      {},
                      [&](const AttemptKey&, Outcome outcome, bool) { error = outcome.error; }});
  Execute execute;
  execute.pack.emplace_back();
  pool.start(execute);
  io.run_for(std::chrono::seconds(5));
  EXPECT_THAT(error, HasSubstr("cannot be started"));
  EXPECT_EQ(device, Json::object()) << "nobody waits for its description";
}

/// The bytes of a message as a script of sh prints them.
std::string printed(const Message& message) {
  std::string text = "printf '";
  for (const std::uint8_t byte : encode(message)) {
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\%03o", byte);
    text += escaped;
  }
  return text + "' >&3";
}

TEST_F(RunnerPoolTest, one_that_dies_in_a_pack_crashes_what_is_not_done_and_each_member_ends_once) {
  const AttemptKey a{JobId::of("a"), 1}, b{JobId::of("b"), 2}, c{JobId::of("c"), 1};
  Outcome success;
  success.kind = OutcomeKind::succeeded;
  const auto program = folder / "runner";
  storage::write_plainly(program, "#!/bin/sh\n" + printed(RunnerReady{{{"memory_mb", 81559}}}) + "\n" +
                                      printed(Executed{b, success}) + "\n" + printed(Executed{b, success}) + "\n" +
                                      printed(ExecuteProgress{c, {1, 2, "training", 0}}) +
                                      "\nsleep 0.3; kill -KILL $$\n");
  ::chmod(program.c_str(), 0755);
  boost::asio::io_context io;
  RunnerPool pool(io, {program.string(), "cuda:0"});
  std::vector<std::pair<AttemptKey, bool>> ended;
  std::vector<AttemptKey> moved;
  std::vector<Json> devices;
  pool.set_callbacks({[&](const Json& device) { devices.push_back(device); },
                      [&](const AttemptKey& attempt, const Progress&) { moved.push_back(attempt); },
                      [&](const AttemptKey& attempt, Outcome, bool crashed) {
                        ended.emplace_back(attempt, crashed);
                        if (ended.size() == 3) io.stop();
                      }});
  Execute execute;
  for (const AttemptKey& key : {a, b, c}) {
    auto& member = execute.pack.emplace_back();
    member.job.id = key.job;
    member.attempt = key.number;
  }
  pool.start(execute);
  io.run_for(std::chrono::seconds(20));
  EXPECT_THAT(ended, testing::ElementsAre(std::pair(b, false), std::pair(a, true), std::pair(c, true)));
  EXPECT_THAT(moved, testing::ElementsAre(c));
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0]["memory_mb"], 81559);
}

}  // namespace
}  // namespace finesweep::worker
