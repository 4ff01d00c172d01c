// `finesweep cancel` on a sweep that runs on this machine.

#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>

#include "jobs/json.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class Cancel : public ::testing::Test {
 protected:
  struct Ended {
    int exit_code;
    std::string output;
    double seconds;
  };
  Ended cancel(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {finesweep_program(), "cancel"});
    const auto begun = std::chrono::steady_clock::now();
    Process process(arguments, workspace_.path());
    const int exit_code = process.wait(30s).value_or(-1);
    return {exit_code, process.output(),
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count()};
  }
  std::vector<std::string> run_command(const std::vector<std::string>& more = {}) {
    std::vector<std::string> command{finesweep_program(), "run", *sweep_, "--workers", "2"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  std::string events() const { return read_text(run_ / "events.jsonl"); }
  bool has_begun() const { return events().find("attempt_started") != std::string::npos; }
  std::string results() const { return read_text(run_ / "reports/results.csv"); }
  int rows_with(const std::string& text) const {
    std::istringstream lines(results());
    int rows = 0;
    for (std::string line; std::getline(lines, line);) rows += line.find(text) != std::string::npos;
    return rows;
  }

  Workspace workspace_;
  std::optional<fs::path> sweep_ = workspace_.make_small_sweep(250);
  fs::path run_ = workspace_ / "runs/small";
};

TEST_F(Cancel, a_trial_ends_at_once_and_the_others_are_finished) {
  Process run(run_command(), workspace_.path());
  ASSERT_TRUE(wait_for([&] { return has_begun(); }, 60s)) << run.output();
  const Ended cancelled = cancel({run_, "full"});
  EXPECT_EQ(cancelled.exit_code, 0) << cancelled.output;
  EXPECT_LT(cancelled.seconds, 2);
  EXPECT_NE(cancelled.output.find("(full)"), std::string::npos) << cancelled.output;
  const Ended again = cancel({run_, "full", "nonesuch"});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.output.find("it has been cancelled before"), std::string::npos) << again.output;
  EXPECT_NE(again.output.find("no trial 'nonesuch'"), std::string::npos) << again.output;
  EXPECT_EQ(run.wait(120s), 1) << run.output();
  EXPECT_EQ(rows_with(",cancelled,"), 2) << results();
  EXPECT_EQ(rows_with(",succeeded,"), 2) << results();
  const Ended late = cancel({run_, "lora"});
  EXPECT_EQ(late.exit_code, 2);
  EXPECT_NE(late.output.find("not running (finished)"), std::string::npos) << late.output;
}

TEST_F(Cancel, a_whole_sweep_ends_and_leaves_nobody_and_the_same_command_runs_it_again) {
  Process run(run_command(), workspace_.path());
  ASSERT_TRUE(wait_for([&] { return has_begun(); }, 60s)) << run.output();
  const Ended cancelled = cancel({run_});
  EXPECT_EQ(cancelled.exit_code, 0) << cancelled.output;
  EXPECT_EQ(run.wait(20s), 1) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
  EXPECT_EQ(rows_with(",cancelled,"), 4) << results();
  Process again(run_command({"--set", "finetune.steps=5"}), workspace_.path());
  EXPECT_EQ(again.wait(120s), 0) << again.output();
}

TEST_F(Cancel, stays_when_the_coordinator_is_killed_and_started_again) {
  Process run(run_command(), workspace_.path());
  ASSERT_TRUE(wait_for([&] { return has_begun(); }, 60s)) << run.output();
  ASSERT_EQ(cancel({run_, "full"}).exit_code, 0);
  const Json status = Json::parse(read_text(run_ / "status.json"), nullptr, false);
  ASSERT_EQ(kill(status.value("pid", 0), SIGKILL), 0);
  EXPECT_EQ(run.wait(120s), 1) << run.output();
  EXPECT_EQ(rows_with(",cancelled,"), 2) << results();
  EXPECT_EQ(rows_with(",succeeded,"), 2) << results();
}

TEST_F(Cancel, where_no_sweep_runs_it_says_so) {
  const Ended nothing = cancel({run_});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.output.find("no sweep was run here"), std::string::npos) << nothing.output;
}

}  // namespace
}  // namespace finesweep::tests
