// The guarantees about killing, with the real programs: nothing is lost, nothing stays behind, the tables come out
// the same.

#include <gtest/gtest.h>
#include <signal.h>

#include <functional>
#include <random>
#include <thread>

#include "jobs/json.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto kRunDeadline = 120s;
constexpr int kRandomKills = 10;

bool has_checkpoint(const fs::path& run) {
  std::error_code ignored;
  for (const auto& attempt : fs::directory_iterator(run / "staging", ignored))
    for (const auto& checkpoint : fs::directory_iterator(attempt.path() / "checkpoints", ignored))
      if (checkpoint.path().filename().string().starts_with("step-")) return true;
  return false;
}

/// The first member of the family whose command line has `text` and not `without`; 0 where there is none.
pid_t member(const Process& process, const std::string& text, const std::string& without = "\n") {
  for (const auto& [pid, command] : process.family())
    if (command.find(text) != std::string::npos && command.find(without) == std::string::npos) return pid;
  return 0;
}

/// A sweep, and the tables of an undisturbed run of it.
class Undisturbed {
 public:
  explicit Undisturbed(fs::path (*make)(const Workspace&)) : sweep(make(workspace)) {
    Process run(command(workspace / "undisturbed"), workspace.path());
    EXPECT_EQ(run.wait(kRunDeadline), 0) << run.output();
    results = results_of(workspace / "undisturbed");
    EXPECT_NE(results.find("succeeded"), std::string::npos) << results;
  }

  std::vector<std::string> command(const fs::path& out) const {
    return {finesweep_program(), "run", sweep, "--out", out, "--workers", "2"};
  }

  void finish_and_compare(const fs::path& out) const {
    Process again(command(out), workspace.path());
    ASSERT_EQ(again.wait(kRunDeadline), 0) << again.output();
    EXPECT_EQ(results_of(out), results);
    EXPECT_TRUE(again.wait_until_gone(5s).empty());
  }

  Workspace workspace;
  fs::path sweep;
  std::string results;
};

/// Rank 0's pid, from the status file.
pid_t coordinator_of(const fs::path& run) {
  const Json status = Json::parse(read_text(run / "status.json"), nullptr, false);
  return status.is_object() ? status.value("pid", 0) : 0;
}

class Killing : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = new Undisturbed([](const Workspace& workspace) { return workspace.make_small_sweep(160); });
    ASSERT_FALSE(HasFailure());
  }
  static void TearDownTestSuite() { delete small_; }

  const Workspace* workspace_ = &small_->workspace;
  const std::string& undisturbed_ = small_->results;
  std::vector<std::string> run_command(const fs::path& out) const { return small_->command(out); }
  void finish_and_compare(const fs::path& out) const { small_->finish_and_compare(out); }

  static inline Undisturbed* small_ = nullptr;
};

TEST_F(Killing, a_killed_runner_costs_one_attempt_that_goes_on_from_its_checkpoint) {
  const fs::path out = *workspace_ / "runner";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  // The runner that works is the one whose attempt has a checkpoint; of two workers either will do.
  const pid_t runner = member(run, "finesweep-runner");
  ASSERT_GT(runner, 0);
  int killed = 0;
  for (const auto& [pid, command] : run.family())
    if (command.find("finesweep-runner") != std::string::npos && killed == 0) killed += kill(pid, SIGKILL) == 0;
  ASSERT_EQ(run.wait(kRunDeadline), 0) << run.output();
  EXPECT_EQ(results_of(out), undisturbed_);
  EXPECT_LE(count_events(out, "\"reason\":\"failed\""), 1) << read_text(out / "events.jsonl");
}

TEST_F(Killing, every_working_runner_killed_once_is_retried_and_the_tables_are_the_same) {
  const fs::path out = *workspace_ / "runners";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  // All of them: idle spares cost nothing, working ones an attempt each.
  for (const auto& [pid, command] : run.family())
    if (command.find("finesweep-runner") != std::string::npos) kill(pid, SIGKILL);
  ASSERT_EQ(run.wait(kRunDeadline), 0) << run.output();
  EXPECT_EQ(results_of(out), undisturbed_);
  EXPECT_GE(count_events(out, "\"reason\":\"failed\""), 1) << read_text(out / "events.jsonl");
  EXPECT_NE(run.output().find("signal 9"), std::string::npos) << run.output();
}

/// Kills at random times into a run of two trials, each followed by a run that goes on. crash_test.cc has more, at
/// named points.
class KillingAtRandom : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    quick_ = new Undisturbed([](const Workspace& workspace) { return workspace.make_quick_sweep(); });
    ASSERT_FALSE(HasFailure());
  }
  static void TearDownTestSuite() { delete quick_; }

  static std::vector<std::string> under_mpirun(const fs::path& out) {
    return mpirun(3, {finesweep_program(), "run", quick_->sweep, "--out", out});
  }

  static void kill_each_time(const std::function<std::vector<std::string>(const fs::path&)>& command,
                             const std::function<pid_t(const Process&, const fs::path&)>& victim) {
    std::mt19937 random(20261122);
    for (int i = 0; i < kRandomKills; ++i) {
      const fs::path out =
          quick_->workspace / (::testing::UnitTest::GetInstance()->current_test_info()->name() + std::to_string(i));
      Process run(command(out), quick_->workspace.path());
      ASSERT_TRUE(wait_for([&] { return fs::exists(out / "status.json"); }, 60s)) << run.output();
      const auto delay = std::chrono::milliseconds(std::uniform_int_distribution<int>(0, 2000)(random));
      wait_for([&] { return fs::exists(out / "reports/results.csv"); }, delay);
      const pid_t pid = victim(run, out);
      if (pid > 0) kill(pid, SIGKILL);
      const auto left = run.wait_until_gone(5s);
      EXPECT_TRUE(left.empty()) << "after " << delay.count() << " ms, still there:\n" << describe(left);
      quick_->finish_and_compare(out);
      if (HasFailure()) return;
    }
  }

  static inline Undisturbed* quick_ = nullptr;
};

TEST_F(KillingAtRandom, the_coordinator_leaves_nothing_behind_and_loses_nothing) {
  kill_each_time(under_mpirun, [](const Process&, const fs::path& out) { return coordinator_of(out); });
}

TEST_F(KillingAtRandom, mpirun_leaves_nothing_behind_and_loses_nothing) {
  kill_each_time(under_mpirun, [](const Process& run, const fs::path&) { return run.pid(); });
}

TEST_F(KillingAtRandom, finesweep_run_leaves_nothing_behind_and_loses_nothing) {
  kill_each_time([](const fs::path& out) { return quick_->command(out); },
                 [](const Process& run, const fs::path&) { return run.pid(); });
}

TEST_F(Killing, finesweep_run_goes_on_by_itself_when_its_coordinator_is_killed) {
  const fs::path out = *workspace_ / "goes-on";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  const pid_t coordinator = coordinator_of(out);
  ASSERT_GT(coordinator, 0);
  kill(coordinator, SIGKILL);
  ASSERT_EQ(run.wait(kRunDeadline), 0) << run.output();
  EXPECT_EQ(results_of(out), undisturbed_);
  EXPECT_NE(coordinator_of(out), coordinator);
}

TEST_F(Killing, finesweep_run_goes_on_by_itself_when_mpirun_is_killed) {
  const fs::path out = *workspace_ / "goes-on-after";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  const pid_t launcher = member(run, "mpirun", "exec-with-lifeline");
  ASSERT_GT(launcher, 0);
  kill(launcher, SIGKILL);
  ASSERT_EQ(run.wait(kRunDeadline), 0) << run.output();
  EXPECT_EQ(results_of(out), undisturbed_);
}

TEST_F(Killing, ctrl_c_stops_with_exit_code_3_and_the_next_run_goes_on_from_the_checkpoint) {
  const fs::path out = *workspace_ / "ctrl-c";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  run.signal(SIGINT);
  EXPECT_EQ(run.wait(30s), 3) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
  EXPECT_TRUE(has_checkpoint(out));
  const int interrupted = count_events(out, "\"reason\":\"interrupted\"");
  EXPECT_GE(interrupted, 1) << read_text(out / "events.jsonl");
  finish_and_compare(out);
}

TEST_F(Killing, ctrl_c_while_the_processes_are_still_being_started_is_not_lost) {
  const fs::path out = *workspace_ / "ctrl-c-early";
  for (const int after_ms : {15, 30, 40, 55}) {
    SCOPED_TRACE(after_ms);
    Process run(run_command(out), workspace_->path());
    ASSERT_TRUE(wait_for([&] { return member(run, "mpirun -n", "exec-with-lifeline") > 0; }, 20s)) << run.output();
    std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
    run.signal(SIGINT);
    EXPECT_EQ(run.wait(30s), 3) << run.output();
    EXPECT_TRUE(run.wait_until_gone(5s).empty());
    ASSERT_FALSE(HasFailure());
  }
  finish_and_compare(out);
}

TEST_F(Killing, two_ctrl_c_stop_at_once_and_the_next_run_goes_on) {
  const fs::path out = *workspace_ / "ctrl-c-twice";
  Process run(run_command(out), workspace_->path());
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << run.output();
  run.signal(SIGINT);
  run.signal(SIGINT);
  EXPECT_EQ(run.wait(10s), 3) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
  finish_and_compare(out);
}

}  // namespace
}  // namespace finesweep::tests
