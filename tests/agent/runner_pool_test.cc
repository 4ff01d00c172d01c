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
    pool.set_callbacks({[](const AttemptKey&, const Progress&) {},
                        [&](const AttemptKey& attempt, Outcome outcome, bool crashed) {
                          EXPECT_EQ(attempt.number, 3);
                          ended = Ended{std::move(outcome), crashed};
                          io.stop();
                        }});
    Execute execute;
    execute.attempt = 3;
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
  const auto ended = run(R"(printf 'FSWP\001\000\041\000\377\377\377\377\000\000\000\000' >&3; exec sleep 100)");
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
  pool.set_callbacks({{}, [&](const AttemptKey&, Outcome outcome, bool) { error = outcome.error; }});
  pool.start({});
  io.run_for(std::chrono::seconds(5));
  EXPECT_THAT(error, HasSubstr("cannot be started"));
}

}  // namespace
}  // namespace finesweep::worker
