// Processes that stand still and go on later: what they bring too late is refused, and nothing is lost.

#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>

#include "jobs/json.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class Hanging : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace();
    sweep_ = workspace_->make_small_sweep(300);
    Process run(mpirun(3, {finesweep_program(), "run", sweep_, "--out", *workspace_ / "undisturbed"}),
                workspace_->path());
    ASSERT_EQ(run.wait(120s), 0) << run.output();
    undisturbed_ = results_of(*workspace_ / "undisturbed");
  }
  static void TearDownTestSuite() { delete workspace_; }

  std::vector<std::string> run_command() const {
    return mpirun(3, {finesweep_program(), "run", sweep_, "--out", out_});
  }
  std::vector<Json> events(const std::string& kind) const {
    std::vector<Json> found;
    std::istringstream lines(read_text(out_ / "events.jsonl"));
    for (std::string line; std::getline(lines, line);)
      if (Json event = Json::parse(line, nullptr, false); event.is_object() && event["event"] == kind)
        found.push_back(std::move(event));
    return found;
  }
  fs::path staging(const Json& attempt) const {
    return out_ / "staging" /
           (attempt["job"].get<std::string>() + "." + std::to_string(attempt["attempt"].get<int>()));
  }
  bool has_checkpoint(const Json& attempt) const {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(staging(attempt) / "checkpoints", ignored))
      if (entry.path().filename().string().starts_with("step-")) return true;
    return false;
  }
  /// The first attempt that has got as far as a checkpoint; null where none has within a minute.
  Json attempt_with_checkpoint() const {
    Json found;
    wait_for(
        [&] {
          for (const Json& attempt : events("attempt_started"))
            if (has_checkpoint(attempt)) found = attempt;
          return !found.is_null();
        },
        60s);
    return found;
  }
  static pid_t rank(const Process& run, int number) {
    const std::string variable = "OMPI_COMM_WORLD_RANK=" + std::to_string(number);
    for (const auto& [pid, command] : run.family()) {
      const std::string environment = read_text("/proc/" + std::to_string(pid) + "/environ");
      if (command.find("finesweep-runner") == std::string::npos &&
          (environment + '\0').find(variable + '\0') != std::string::npos)
        return pid;
    }
    return 0;
  }
  /// The runner that works on this attempt: its output goes to the attempt's log.
  static pid_t runner_of(const Process& run, const Json& attempt) {
    const std::string log =
        attempt["job"].get<std::string>() + "." + std::to_string(attempt["attempt"].get<int>()) + ".log";
    for (const auto& [pid, command] : run.family()) {
      std::error_code ignored;
      if (fs::read_symlink("/proc/" + std::to_string(pid) + "/fd/1", ignored).filename() == log) return pid;
    }
    return 0;
  }

  static inline Workspace* workspace_ = nullptr;
  static inline fs::path sweep_;
  static inline std::string undisturbed_;
  fs::path out_ = *workspace_ / ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(Hanging, a_worker_that_stood_still_past_its_lease_brings_its_result_too_late) {
  Process run(run_command(), workspace_->path(), {"FINESWEEP_LEASE_S=3"});
  const Json attempt = attempt_with_checkpoint();
  ASSERT_FALSE(attempt.is_null()) << run.output();
  const pid_t worker = rank(run, attempt["worker"].get<int>());
  ASSERT_GT(worker, 0);
  kill(worker, SIGSTOP);
  // Its runner, which does not know, finishes the job; the coordinator gives the job to another.
  EXPECT_TRUE(wait_for([&] { return fs::exists(staging(attempt) / "artifact/manifest.json"); }, 60s));
  EXPECT_TRUE(wait_for(
      [&] {
        for (const Json& ended : events("attempt_ended"))
          if (ended["job"] == attempt["job"] && ended["attempt"] == attempt["attempt"])
            return ended["reason"] == "lost";
        return false;
      },
      60s))
      << read_text(out_ / "events.jsonl");
  kill(worker, SIGCONT);
  ASSERT_EQ(run.wait(120s), 0) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());

  bool refused = false;
  for (const Json& event : events("result_refused"))
    refused |= event["job"] == attempt["job"] && event["attempt"] == attempt["attempt"];
  EXPECT_TRUE(refused) << "the late result did not come, or was taken\n" << read_text(out_ / "events.jsonl");
  int results = 0;
  for (const Json& event : events("job_succeeded"))
    if (event["job"] == attempt["job"]) {
      ++results;
      EXPECT_GT(event["attempt"], attempt["attempt"]);
    }
  EXPECT_EQ(results, 1);
  EXPECT_EQ(results_of(out_), undisturbed_);
}

TEST_F(Hanging, a_runner_that_stands_still_is_ended_and_its_attempt_retried_from_the_checkpoint) {
  Process run(run_command(), workspace_->path(), {"FINESWEEP_NO_PROGRESS_S=6"});
  const Json attempt = attempt_with_checkpoint();
  ASSERT_FALSE(attempt.is_null()) << run.output();
  const pid_t runner = runner_of(run, attempt);
  ASSERT_GT(runner, 0);
  kill(runner, SIGSTOP);
  ASSERT_EQ(run.wait(120s), 0) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
  bool told = false;
  for (const Json& ended : events("attempt_ended"))
    told |= ended["job"] == attempt["job"] && ended["attempt"] == attempt["attempt"] &&
            ended["reason"] == "failed" &&
            ended.value("error", "").find("made no progress for 6 s") != std::string::npos;
  EXPECT_TRUE(told) << read_text(out_ / "events.jsonl");
  EXPECT_EQ(results_of(out_), undisturbed_);
}

TEST_F(Hanging, a_coordinator_that_stood_still_blames_no_worker) {
  Process run(run_command(), workspace_->path(), {"FINESWEEP_LEASE_S=3"});
  ASSERT_FALSE(attempt_with_checkpoint().is_null()) << run.output();
  const pid_t coordinator = rank(run, 0);
  ASSERT_GT(coordinator, 0);
  kill(coordinator, SIGSTOP);
  // Time is what is tested: well beyond the lease.
  wait_for([] { return false; }, 9s);
  kill(coordinator, SIGCONT);
  ASSERT_EQ(run.wait(120s), 0) << run.output();
  EXPECT_EQ(count_events(out_, "\"reason\":\"lost\""), 0) << read_text(out_ / "events.jsonl");
  EXPECT_EQ(results_of(out_), undisturbed_);
}

}  // namespace
}  // namespace finesweep::tests
