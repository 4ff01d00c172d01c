// resources.gpus with the real programs: the same tables, and no process left behind. On workers of a CPU; on a
// machine with GPUs FINESWEEP_TEST_DEVICES=0,1 makes it those.

#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstdlib>
#include <sstream>

#include "jobs/json.h"
#include "tests/system/csv_table.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class SeveralDevices : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace();
    sweep_ = workspace_->make_small_sweep(400);
    std::string text = read_text(sweep_);
    workspace_->write("sweep.yaml", text.replace(text.find("repeats: 2"), 10, "repeats: 1"));
    Process run(run_command(*workspace_ / "undisturbed"), workspace_->path());
    ASSERT_EQ(run.wait(180s), 0) << run.output();
    undisturbed_ = results_of(*workspace_ / "undisturbed");
  }
  static void TearDownTestSuite() { delete workspace_; }

  static std::vector<std::string> run_command(const fs::path& out, const std::string& gpus = "2",
                                              const std::string& workers = "2") {
    return {
        finesweep_program(),     "run", sweep_, "--out", out, "--workers", workers, "--devices", devices(), "--set",
        "resources.gpus=" + gpus};
  }
  static std::string devices() {
    const char* named = std::getenv("FINESWEEP_TEST_DEVICES");
    return named != nullptr ? named : "cpu";
  }
  /// But for rounding: sums of several processes come together in another order.
  static void expect_close(const fs::path& run, const fs::path& other) {
    const CsvTable one(run / "reports/results.csv"), two(other / "reports/results.csv");
    ASSERT_EQ(one.rows().size(), two.rows().size());
    EXPECT_EQ(one.columns(), two.columns());
    for (std::size_t i = 0; i < one.rows().size(); ++i) {
      const auto number = [](const CsvTable::Row& row, const char* column) { return std::stod(row.at(column)); };
      for (const char* column : {"label", "repeat", "seed", "state", "error"}) {
        EXPECT_EQ(one.rows()[i].at(column), two.rows()[i].at(column));
      }
      EXPECT_NEAR(number(one.rows()[i], "finetune.loss"), number(two.rows()[i], "finetune.loss"), 1e-3);
      EXPECT_NEAR(number(one.rows()[i], "evaluate.accuracy"), number(two.rows()[i], "evaluate.accuracy"), 0.026);
    }
  }

  Json event_of(const std::string& kind) const {
    std::istringstream lines(read_text(out_ / "events.jsonl"));
    for (std::string line; std::getline(lines, line);)
      if (Json event = Json::parse(line, nullptr, false); event.is_object() && event["event"] == kind) return event;
    return Json();
  }
  bool has_checkpoint(const Json& attempt) const {
    std::error_code ignored;
    const auto name = attempt["job"].get<std::string>() + "." + std::to_string(attempt["attempt"].get<int>());
    for (const auto& entry : fs::directory_iterator(out_ / "staging" / name / "checkpoints", ignored))
      if (entry.path().filename().string().starts_with("step-")) return true;
    return false;
  }
  /// The processes of an attempt, by rank: what they print goes to its log, and the leader was started first.
  static std::vector<pid_t> processes_of(const Process& run, const Json& attempt) {
    const std::string log =
        attempt["job"].get<std::string>() + "." + std::to_string(attempt["attempt"].get<int>()) + ".log";
    std::vector<pid_t> pids;
    for (const auto& [pid, command] : run.family()) {
      std::error_code ignored;
      if (fs::read_symlink("/proc/" + std::to_string(pid) + "/fd/1", ignored).filename() == log)
        pids.push_back(pid);
    }
    return pids;
  }

  /// Sends `number` to one of the two in the middle of a training. All of the attempt are gone within 30 s, and the
  /// sweep ends as if nothing had been.
  void signal_one(std::size_t which, int number) {
    Process run(run_command(out_), workspace_->path());
    Json attempt;
    ASSERT_TRUE(wait_for(
        [&] { return !(attempt = event_of("attempt_started")).is_null() && has_checkpoint(attempt); }, 90s))
        << run.output();
    const std::vector<pid_t> pids = processes_of(run, attempt);
    ASSERT_EQ(pids.size(), 2u) << describe(run.family());
    kill(pids[which], number);
    EXPECT_TRUE(wait_for([&] { return processes_of(run, attempt).empty(); }, 30s)) << describe(run.family());
    ASSERT_EQ(run.wait(180s), 0) << run.output();
    EXPECT_TRUE(run.wait_until_gone(5s).empty());
    const Json ended = event_of("attempt_ended");
    EXPECT_EQ(ended["job"], attempt["job"]);
    EXPECT_EQ(ended["reason"], "failed");
    EXPECT_NE(ended.value("error", "").find(" of 2 of this job"), std::string::npos) << ended;
    EXPECT_EQ(count_events(out_, "\"reason\":\"failed\""), 1) << "charged once";
    if (devices() == "cpu")
      EXPECT_EQ(results_of(out_), undisturbed_) << "it went on from its checkpoint, bit for bit";
    else
      expect_close(out_, *workspace_ / "undisturbed");
  }

  static inline Workspace* workspace_ = nullptr;
  static inline fs::path sweep_;
  static inline std::string undisturbed_;
  fs::path out_ = *workspace_ / ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(SeveralDevices, give_the_table_of_one) {
  Process run(run_command(out_, "1"), workspace_->path());
  ASSERT_EQ(run.wait(180s), 0) << run.output();
  expect_close(out_, *workspace_ / "undisturbed");
}

TEST_F(SeveralDevices, the_leader_is_killed_in_the_middle_of_a_step) {
  signal_one(0, SIGKILL);
}
TEST_F(SeveralDevices, the_other_is_killed_in_the_middle_of_a_step) {
  signal_one(1, SIGKILL);
}
TEST_F(SeveralDevices, one_is_stopped_in_the_middle_of_a_step) {
  signal_one(1, SIGSTOP);
}

TEST_F(SeveralDevices, too_few_workers_are_told_before_anything_is_started) {
  if (devices() != "cpu") GTEST_SKIP() << "GPUs are counted otherwise than workers";
  Process run(run_command(out_, "3", "2"), workspace_->path());
  EXPECT_EQ(run.wait(30s), 2);
  EXPECT_NE(run.output().find("needs 3 devices of one machine together, and here are 2 workers"), std::string::npos)
      << run.output();
  EXPECT_FALSE(fs::exists(out_));
}

}  // namespace
}  // namespace finesweep::tests
