// Jobs that run together, with the real programs on a CPU.

#include <gtest/gtest.h>
#include <signal.h>

#include <set>
#include <sstream>

#include "jobs/json.h"
#include "tests/system/csv_table.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto kDeadline = 240s;
constexpr int kSteps = 120;

/// Four LoRA jobs on one base that fit one pack, beside a full fine-tune; one worker, so that all four are in it.
class Packing : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace();
    workspace_->make_joining_sweep(20, 200);
    workspace_->make_small_sweep(kSteps);
    std::string text = read_text(*workspace_ / "sweep.yaml");
    const std::string axes = "axes:\n    - finetune.method: [lora, full]\n  repeats: 2";
    text.replace(text.find(axes), axes.size(),
                 "axes:\n    - finetune.rank: [2, 4, 8, 16]\n"
                 "  include:\n    - {label: full, finetune.method: full}");
    workspace_->write("sweep.yaml", text + "resources: {threads: 1}\n");
    Process alone(command("alone", "off"), workspace_->path());
    ASSERT_EQ(alone.wait(kDeadline), 0) << alone.output();
    alone_ = results_of(*workspace_ / "alone");
  }
  static void TearDownTestSuite() { delete workspace_; }

  static std::vector<std::string> command(const std::string& out, const std::string& pack, int steps = kSteps,
                                          int evaluation_rows = 32) {
    return mpirun(2, {finesweep_program(), "run", *workspace_ / "sweep.yaml", "--out", *workspace_ / out, "--set",
                      "resources.pack=" + pack, "--set", "finetune.steps=" + std::to_string(steps), "--set",
                      "evaluate.batch_size=" + std::to_string(evaluation_rows)});
  }
  /// The run directory of joining.yaml is out.
  static std::vector<std::string> joining(const std::string& out, const std::string& pack) {
    return mpirun(2, {finesweep_program(), "run", *workspace_ / "joining.yaml", "--out", *workspace_ / out, "--set",
                      "resources.pack=" + pack});
  }
  /// The runner that has a job's log open, which the spare one has not; 0: none.
  static pid_t working_runner(const Process& run) {
    std::error_code ignored;
    for (const auto& [pid, name] : run.family()) {
      const fs::path error = fs::read_symlink("/proc/" + std::to_string(pid) + "/fd/2", ignored);
      if (name.find("finesweep-runner") != std::string::npos && error.extension() == ".log") return pid;
    }
    return 0;
  }
  std::vector<Json> events(const std::string& out, const std::string& kind) const {
    std::vector<Json> found;
    std::istringstream lines(read_text(*workspace_ / out / "events.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      Json event = Json::parse(line, nullptr, false);
      if (event.is_object() && event.value("event", "") == kind) found.push_back(std::move(event));
    }
    return found;
  }
  /// Jobs that were handed out in a pack of `size`.
  std::set<std::string> members(const std::string& out, int size) const {
    std::set<std::string> jobs;
    for (const Json& event : events(out, "attempt_started"))
      if (event.value("pack", 1) == size) jobs.insert(event["job"].get<std::string>());
    return jobs;
  }

  static Workspace* workspace_;
  static std::string alone_;  // results where every job trains alone
};

Workspace* Packing::workspace_ = nullptr;
std::string Packing::alone_;

TEST_F(Packing, a_sweep_with_packs_has_the_results_of_one_without) {
  Process run(command("packed", "4"), workspace_->path());
  ASSERT_EQ(run.wait(kDeadline), 0) << run.output();
  // The trainings; the evaluations too where all of them were ready at once.
  EXPECT_GE(members("packed", 4).size(), 4u) << read_text(*workspace_ / "packed/events.jsonl");
  EXPECT_NE(run.output().find("in a pack of 4"), std::string::npos) << run.output();
  EXPECT_EQ(members("alone", 1).size(), 10u);
  EXPECT_EQ(results_of(*workspace_ / "packed"), alone_);

  // Every member has a log of its own, which says where the pack's output is.
  int pointing = 0;
  for (const auto& log : fs::directory_iterator(*workspace_ / "packed/logs"))
    pointing += read_text(log.path()).find("in a pack of 4 jobs") != std::string::npos;
  EXPECT_GE(pointing, 3);
}

TEST_F(Packing, who_waits_joins_a_pack_that_has_room_and_a_while_to_go) {
  Process alone(joining("joining_alone", "off"), workspace_->path());
  ASSERT_EQ(alone.wait(kDeadline), 0) << alone.output();
  ASSERT_TRUE(events("joining_alone", "attempt_joined").empty());
  const std::string expected = results_of(*workspace_ / "joining_alone");

  Process run(joining("joined", "2"), workspace_->path());
  ASSERT_EQ(run.wait(kDeadline), 0) << run.output();
  EXPECT_EQ(results_of(*workspace_ / "joined"), expected);
  const std::vector<Json> joined = events("joined", "attempt_joined");
  EXPECT_EQ(joined.size(), 2u) << read_text(*workspace_ / "joined/events.jsonl");
  for (const Json& event : joined) {
    const std::string job = event.value("job", "");
    EXPECT_EQ(event.value("pack", 0), 2) << event;
    EXPECT_NE(read_text(*workspace_ / "joined/logs" / (job + ".1.log")).find("in a pack that ran already"),
              std::string::npos);
  }

  // A runner that dies over one that has joined costs none of them anything.
  Process killed(joining("joined_killed", "2"), workspace_->path());
  // The second one that joins has a while to go too.
  ASSERT_TRUE(wait_for([&] { return events("joined_killed", "attempt_joined").size() == 2; }, 120s))
      << killed.output();
  const pid_t runner = working_runner(killed);
  ASSERT_GT(runner, 0);
  ASSERT_EQ(kill(runner, SIGKILL), 0);
  ASSERT_EQ(killed.wait(kDeadline), 0) << killed.output();
  EXPECT_EQ(results_of(*workspace_ / "joined_killed"), expected);
  EXPECT_TRUE(events("joined_killed", "job_failed").empty());
  int crashed = 0;
  for (const Json& event : events("joined_killed", "attempt_ended"))
    crashed += event.value("error", "").find("signal 9") != std::string::npos;
  EXPECT_EQ(crashed, 2) << read_text(*workspace_ / "joined_killed/events.jsonl");
}

TEST_F(Packing, evaluations_run_in_a_pack_and_give_what_they_give_alone) {
  for (const auto& [out, pack] :
       {std::pair<std::string, std::string>{"evaluated", "4"}, {"evaluated_alone", "off"}}) {
    Process trained(command(out, pack), workspace_->path());
    ASSERT_EQ(trained.wait(kDeadline), 0) << trained.output();
    const std::set<std::string> before = members(out, 4);
    // Other evaluations of the same adapters, all of them ready at once.
    Process evaluated(command(out, pack, kSteps, 7), workspace_->path());
    ASSERT_EQ(evaluated.wait(kDeadline), 0) << evaluated.output();
    EXPECT_EQ(members(out, 4).size() - before.size(), pack == "off" ? 0u : 4u)
        << read_text(*workspace_ / out / "events.jsonl");
  }
  EXPECT_EQ(results_of(*workspace_ / "evaluated"), results_of(*workspace_ / "evaluated_alone"));
  EXPECT_NE(results_of(*workspace_ / "evaluated"), "");
}

TEST_F(Packing, an_adapter_that_is_damaged_fails_its_own_evaluation_alone) {
  Process trained(command("damaged", "4"), workspace_->path());
  ASSERT_EQ(trained.wait(kDeadline), 0) << trained.output();
  // That of the first training: the others' evaluations know nothing of it.
  const std::set<std::string> trainings = members("damaged", 4);
  ASSERT_GE(trainings.size(), 4u);
  int damaged = 0;
  for (const std::string& job : trainings) {
    const fs::path file = *workspace_ / "damaged/artifacts" / job / "adapter/adapter_model.safetensors";
    if (damaged > 0 || !fs::exists(file)) continue;
    std::error_code ignored;
    fs::permissions(file, fs::perms::owner_write, fs::perm_options::add, ignored);
    workspace_->write("damaged/artifacts/" + job + "/adapter/adapter_model.safetensors", "no tensors");
    ++damaged;
  }
  ASSERT_EQ(damaged, 1);
  Process evaluated(command("damaged", "4", kSteps, 7), workspace_->path());
  EXPECT_EQ(evaluated.wait(kDeadline), 1) << evaluated.output();
  const CsvTable results(*workspace_ / "damaged/reports/results.csv");
  int failed = 0;
  for (const auto& row : results.rows()) failed += row.at("state") != "succeeded";
  EXPECT_EQ(failed, 1) << read_text(*workspace_ / "damaged/reports/results.csv");
}

TEST_F(Packing, a_runner_that_is_killed_under_a_pack_costs_no_job_anything) {
  Process run(command("killed", "4"), workspace_->path());
  pid_t runner = 0;
  ASSERT_TRUE(wait_for(
      [&] {
        // In the middle of a pack: something of it stands in a checkpoint.
        std::error_code ignored;
        bool saved = false;
        for (const auto& attempt : fs::directory_iterator(*workspace_ / "killed/staging", ignored))
          for (const auto& entry : fs::directory_iterator(attempt.path() / "checkpoints", ignored))
            saved |= entry.path().filename().string().starts_with("step-");
        if (!saved || members("killed", 4).empty()) return false;
        runner = working_runner(run);
        return runner > 0;
      },
      120s))
      << run.output();
  ASSERT_EQ(kill(runner, SIGKILL), 0);
  ASSERT_EQ(run.wait(kDeadline), 0) << run.output();
  EXPECT_EQ(results_of(*workspace_ / "killed"), alone_);
  int crashed = 0;
  for (const Json& event : events("killed", "attempt_ended"))
    crashed += event.value("error", "").find("signal 9") != std::string::npos;
  EXPECT_GE(crashed, 2) << "what was not done ended with it\n" << read_text(*workspace_ / "killed/events.jsonl");
  // The pack ran again in halves.
  EXPECT_FALSE(members("killed", 2).empty()) << read_text(*workspace_ / "killed/events.jsonl");
  EXPECT_TRUE(events("killed", "job_failed").empty());
}

TEST_F(Packing, a_trial_that_is_cancelled_leaves_its_pack_and_the_others_go_on) {
  Process run(command("cancelled", "4", 400), workspace_->path());
  ASSERT_TRUE(wait_for(
      [&] {
        const Json status = Json::parse(read_text(*workspace_ / "cancelled/status.json"), nullptr, false);
        return status.is_object() && !status["workers"].empty() && status["workers"][0].contains("job");
      },
      120s))
      << run.output();
  const std::set<std::string> pack = members("cancelled", 4);
  ASSERT_EQ(pack.size(), 4u);
  const CsvTable plan = [&] {
    Process report({finesweep_program(), "report", *workspace_ / "cancelled", "--format", "csv"},
                   workspace_->path());
    EXPECT_EQ(report.wait(30s), 0) << report.output();
    return CsvTable(*workspace_ / "cancelled/reports/results.csv");
  }();
  std::string trial;
  for (const auto& row : plan.rows())
    if (row.at("finetune.rank") == "8") trial = row.at("trial");
  ASSERT_FALSE(trial.empty());
  Process cancel({finesweep_program(), "cancel", *workspace_ / "cancelled", trial}, workspace_->path());
  ASSERT_EQ(cancel.wait(30s), 0) << cancel.output();
  EXPECT_EQ(run.wait(kDeadline), 1) << run.output();
  const CsvTable results(*workspace_ / "cancelled/reports/results.csv");
  for (const auto& row : results.rows())
    EXPECT_EQ(row.at("state"), row.at("trial") == trial ? "cancelled" : "succeeded") << row.at("label");
  // The others did not begin again.
  for (const Json& event : events("cancelled", "attempt_started")) EXPECT_EQ(event["attempt"], 1) << event;
}

}  // namespace
}  // namespace finesweep::tests
