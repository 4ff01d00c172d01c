// Sweeps under a real Slurm of two nodes: what is promised in docs/slurm.md.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

#include "jobs/json.h"
#include "tests/slurm/lab/cluster.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

constexpr int kSteps = 150;
constexpr auto kJobDeadline = 300s;

/// One cluster, one small sweep and one undisturbed local run of it for all tests.
class SlurmLab : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cluster_ = new Cluster;
    ASSERT_EQ(cluster_->problem(), "");
    workspace_ = new Workspace;
    sweep_ = workspace_->make_small_sweep(kSteps);
    const Ended run = finesweep({"run", sweep_, "--out", *workspace_ / "undisturbed", "--workers", "2"}, 150s);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    undisturbed_ = results(*workspace_ / "undisturbed");
    ASSERT_THAT(undisturbed_, HasSubstr("succeeded"));
  }
  static void TearDownTestSuite() {
    delete workspace_;
    delete cluster_;
  }

  struct Ended {
    int exit_code = -1;
    std::string output;
  };
  static Ended finesweep(std::vector<std::string> arguments, std::chrono::seconds deadline = 30s) {
    arguments.insert(arguments.begin(), finesweep_program());
    Process process(arguments, workspace_->path());
    const auto exit_code = process.wait(deadline);
    return {exit_code.value_or(-1), process.output()};
  }

  /// The job's id; empty, with a failure, where it was not submitted.
  static std::string submit(const fs::path& out, const std::vector<std::string>& more,
                            const fs::path& sweep = sweep_) {
    std::vector<std::string> arguments{"submit", sweep, "--out", out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Ended submitted = finesweep(arguments);
    EXPECT_EQ(submitted.exit_code, 0) << submitted.output;
    const std::string words = "submitted as job ";
    const auto at = submitted.output.find(words);
    if (at == std::string::npos) return "";
    const auto begin = at + words.size();
    return submitted.output.substr(begin, submitted.output.find(':', begin) - begin);
  }

  static std::string results(const fs::path& run) {
    return without_measured_columns(read_text(run / "reports/results.csv"));
  }
  static std::string log_of(const fs::path& run, const std::string& job) {
    return read_text(run / ("logs/slurm-" + job + ".log"));
  }
  static std::string events(const fs::path& run) { return read_text(run / "events.jsonl"); }
  static Json status(const fs::path& run) { return Json::parse(read_text(run / "status.json"), nullptr, false); }
  static bool is(const fs::path& run, const std::string& state) {
    const Json now = status(run);
    return now.is_object() && now.value("state", "") == state;
  }
  /// A worker of the node has a checkpoint to go on from.
  static bool has_checkpoint(const fs::path& run, const std::string& node = "") {
    std::error_code ignored;
    for (const auto& attempt : fs::directory_iterator(run / "staging", ignored))
      for (const auto& checkpoint : fs::directory_iterator(attempt.path() / "checkpoints", ignored)) {
        if (!checkpoint.path().filename().string().starts_with("step-")) continue;
        if (node.empty() || works_on(run, attempt.path().filename().string(), node)) return true;
      }
    return false;
  }
  static bool works_on(const fs::path& run, const std::string& attempt, const std::string& node) {
    const Json now = status(run);
    if (!now.is_object()) return false;
    for (const Json& worker : now.value("workers", Json::array()))
      if (worker.value("host", "") == node && attempt.starts_with(worker.value("job", "?"))) return true;
    return false;
  }
  static void command(const std::vector<std::string>& words) {
    const auto result = slurm::run_command(words);
    ASSERT_TRUE(result && result->exit_code == 0) << (result ? result->errors : result.error().message);
  }

  static inline Cluster* cluster_ = nullptr;
  static inline Workspace* workspace_ = nullptr;
  static inline fs::path sweep_;
  static inline std::string undisturbed_;
};

TEST_F(SlurmLab, a_submitted_sweep_gives_the_tables_of_a_local_run_whatever_its_name_holds) {
  // The name is a YAML string in double quotes; the folder's may hold anything but NUL and a slash.
  const std::string name = R"(it's \"a\" $(touch pwned) `touch pwned` ; touch pwned & %j \\)";
  const fs::path sweep = *workspace_ / "odd.yaml";
  std::string text = read_text(sweep_);
  workspace_->write("odd.yaml", text.replace(text.find("name: small"), 11, "name: \"" + name + "\""));
  const fs::path out = workspace_->path() / "odd '$(touch pwned)'\n#SBATCH --comment=pwned\r\n";
  const std::string job = submit(out, {"--nodes", "2", "--workers", "1", "--time", "10"}, sweep);
  EXPECT_EQ(finesweep({"status", out}).exit_code, 0);
  EXPECT_EQ(cluster_->wait(job, kJobDeadline), "COMPLETED") << log_of(out, job);
  EXPECT_EQ(cluster_->field(job, "ExitCode"), "0:0");
  EXPECT_EQ(results(out), undisturbed_);
  EXPECT_THAT(log_of(out, job), HasSubstr("worker 3 on n2 (cpu)"));
  for (const auto& entry : fs::recursive_directory_iterator(workspace_->path()))
    EXPECT_NE(entry.path().filename(), "pwned") << entry.path();
  EXPECT_THAT(finesweep({"status", out}).output, HasSubstr("4 of 4 succeeded"));
}

TEST_F(SlurmLab, a_sweep_with_mistakes_is_not_submitted) {
  workspace_->write("wrong.yaml", read_text(sweep_) + "\nnonsense: 1\n");
  const Ended refused = finesweep({"submit", *workspace_ / "wrong.yaml", "--out", *workspace_ / "wrong"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.output, HasSubstr("nonsense"));
  EXPECT_FALSE(fs::exists(*workspace_ / "wrong"));
  const Ended partition =
      finesweep({"submit", sweep_, "--out", *workspace_ / "refused", "--", "--partition=no-such"});
  EXPECT_EQ(partition.exit_code, 4);
  EXPECT_THAT(partition.output, HasSubstr("sbatch refused the job"));
}

TEST_F(SlurmLab, near_its_time_limit_a_job_checkpoints_is_requeued_and_goes_on) {
  const fs::path out = *workspace_ / "limit";
  // The warning comes two minutes before the limit or up to a minute earlier: with this one, in the first half
  // minute.
  const std::string job = submit(out, {"--workers", "1", "--time", "2", "--set", "finetune.steps=20000"});
  ASSERT_TRUE(wait_for([&] { return cluster_->field(job, "Restarts") == "1"; }, 70s)) << log_of(out, job);
  EXPECT_TRUE(is(out, "interrupted")) << "the coordinator said so before the job was requeued";
  EXPECT_TRUE(has_checkpoint(out));
  ASSERT_TRUE(wait_for([&] { return log_of(out, job).find("(attempt 2) on worker") != std::string::npos; }, 60s))
      << log_of(out, job);
  EXPECT_THAT(log_of(out, job), HasSubstr("the job is requeued"));
  EXPECT_THAT(finesweep({"status", out}).output,
              HasSubstr("Slurm job " + job + ", requeued 1 times, time limit in "));
  EXPECT_EQ(finesweep({"cancel", out}).exit_code, 0);
  EXPECT_EQ(cluster_->wait(job, 30s), "FAILED") << "a cancelled sweep is no success: exit code 1";
}

TEST_F(SlurmLab, a_requeued_sweep_ends_with_the_tables_of_an_undisturbed_one) {
  const fs::path out = *workspace_ / "requeued";
  const std::string job = submit(out, {"--nodes", "2", "--workers", "1", "--time", "20"});
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << log_of(out, job);
  // What Slurm does near the time limit.
  command({"scancel", "--batch", "--signal=USR1", job});
  EXPECT_EQ(cluster_->wait(job, kJobDeadline), "COMPLETED") << log_of(out, job);
  EXPECT_EQ(cluster_->field(job, "Restarts"), "1");
  EXPECT_EQ(results(out), undisturbed_);
  EXPECT_THAT(log_of(out, job), HasSubstr("stopped "));
}

TEST_F(SlurmLab, a_life_that_brings_nothing_is_not_requeued) {
  const fs::path out = *workspace_ / "nothing";
  const std::string job = submit(out, {"--workers", "1", "--time", "20"});
  // Before libtorch is loaded and the first step is done.
  ASSERT_TRUE(wait_for([&] { return is(out, "running"); }, 60s)) << log_of(out, job);
  command({"scancel", "--batch", "--signal=USR1", job});
  EXPECT_EQ(cluster_->wait(job, 60s), "FAILED") << log_of(out, job);
  EXPECT_EQ(cluster_->field(job, "ExitCode"), "3:0");
  EXPECT_EQ(cluster_->field(job, "Restarts"), "0");
  EXPECT_THAT(log_of(out, job), HasSubstr("neither a result nor a checkpoint"));
}

TEST_F(SlurmLab, scancel_checkpoints_and_a_new_submission_goes_on) {
  const fs::path out = *workspace_ / "scancel";
  const std::string job = submit(out, {"--workers", "2", "--time", "20", "--status-port", "0", "--join-port", "0"});
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << log_of(out, job);
  EXPECT_THAT(log_of(out, job), HasSubstr("http://127.0.0.1:")) << "the page";
  EXPECT_TRUE(fs::exists(out / "join.json"));
  command({"scancel", job});
  EXPECT_EQ(cluster_->wait(job, 30s), "CANCELLED");
  EXPECT_TRUE(wait_for([&] { return is(out, "interrupted"); }, 15s)) << log_of(out, job);
  EXPECT_THAT(log_of(out, job), Not(HasSubstr("requeued")));
  const std::string next = submit(out, {"--workers", "2", "--time", "20"});
  EXPECT_EQ(cluster_->wait(next, kJobDeadline), "COMPLETED") << log_of(out, next);
  EXPECT_EQ(results(out), undisturbed_);
  EXPECT_THAT(log_of(out, next), HasSubstr("(attempt 2) on worker"));
}

TEST_F(SlurmLab, two_sweeps_run_at_once_and_one_directory_has_one_coordinator) {
  const fs::path one = *workspace_ / "one", two = *workspace_ / "two";
  const std::string first = submit(one, {"--workers", "1", "--time", "20"});
  const std::string second = submit(two, {"--workers", "1", "--time", "20"});
  ASSERT_TRUE(wait_for([&] { return is(one, "running") && is(two, "running"); }, 60s));
  const Ended trial = finesweep({"cancel", one, "full"});
  EXPECT_EQ(trial.exit_code, 0) << trial.output;
  EXPECT_EQ(cluster_->wait(first, kJobDeadline), "FAILED") << "two trials were cancelled";
  EXPECT_EQ(cluster_->wait(second, kJobDeadline), "COMPLETED") << log_of(two, second);
  EXPECT_EQ(results(two), undisturbed_);
  EXPECT_THAT(results(one), HasSubstr(",cancelled,"));
  EXPECT_THAT(results(one), HasSubstr(",succeeded,"));
}

TEST_F(SlurmLab, a_second_job_on_a_directory_is_refused_and_the_first_one_is_requeued_all_the_same) {
  const fs::path out = *workspace_ / "shared";
  const std::string first = submit(out, {"--workers", "1", "--time", "20", "--set", "finetune.steps=20000"});
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << log_of(out, first);
  // Another sweep in the same place, which must not become the first job's.
  const std::string second = submit(out, {"--workers", "1", "--time", "20", "--set", "finetune.steps=7"});
  EXPECT_EQ(cluster_->wait(second, 120s), "FAILED") << log_of(out, second);
  EXPECT_THAT(log_of(out, second), HasSubstr("(Slurm job " + first + ")"));
  EXPECT_THAT(finesweep({"status", out}).output, HasSubstr("Slurm job " + first + ", time limit in "));
  command({"scancel", "--batch", "--signal=USR1", first});
  ASSERT_TRUE(wait_for([&] { return cluster_->field(first, "Restarts") == "1"; }, 60s)) << log_of(out, first);
  ASSERT_TRUE(wait_for([&] { return log_of(out, first).find("(attempt 2) on worker") != std::string::npos; }, 60s))
      << log_of(out, first);
  EXPECT_THAT(read_text(out / "sweep.yaml"), HasSubstr("20000"));
  EXPECT_EQ(finesweep({"cancel", out}).exit_code, 0);
  EXPECT_EQ(cluster_->wait(first, 30s), "FAILED");
}

TEST_F(SlurmLab, workers_have_the_gpus_of_their_node_and_the_rank_too_many_is_a_spare) {
  const fs::path out = *workspace_ / "gpus";
  const std::string job =
      submit(out, {"--nodes", "2", "--gpus-per-node", "2", "--time", "20", "--set", "sweep.repeats=1000"});
  // These GPUs do not exist: only who was given which is looked at, while one job after the other fails.
  const std::vector<std::string> lines = {"worker 1 on n1 (cuda:0)", "worker 2 on n1 (cuda:1)",
                                          "worker 3 on n2 (cuda:0)", "worker 4 on n2 (cuda:1)",
                                          "rank 5 is a spare"};
  const auto has_all = [&] {
    const std::string log = log_of(out, job);
    return std::all_of(lines.begin(), lines.end(),
                       [&](const std::string& line) { return log.find(line) != std::string::npos; });
  };
  EXPECT_TRUE(wait_for(has_all, 60s)) << log_of(out, job);
  finesweep({"cancel", out});
  cluster_->wait(job, 60s);
}

TEST_F(SlurmLab, a_lost_node_costs_its_jobs_and_not_the_sweep) {
  const fs::path out = *workspace_ / "lost";
  const std::string job = submit(out, {"--nodes", "2", "--workers", "1", "--time", "20"});
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out, "n2"); }, 60s)) << log_of(out, job);
  cluster_->kill_node("n2");
  EXPECT_EQ(cluster_->wait(job, kJobDeadline), "COMPLETED") << log_of(out, job);
  EXPECT_EQ(cluster_->field(job, "Restarts"), "0");
  EXPECT_EQ(results(out), undisturbed_);
  EXPECT_THAT(events(out), HasSubstr("\"reason\":\"lost\""));
  // By its ranks' silence, or by the leases' end where that comes first on a busy machine.
  EXPECT_THAT(log_of(out, job),
              AnyOf(HasSubstr("no sign of life from n2"), HasSubstr("the worker stopped answering")));
  cluster_->restart_node("n2");
}

TEST_F(SlurmLab, where_the_coordinators_node_is_lost_a_worker_of_another_has_the_job_requeued) {
  const fs::path out = *workspace_ / "lost-coordinator";
  const std::string job = submit(out, {"--nodes", "2", "--workers", "1", "--time", "20"});
  ASSERT_TRUE(wait_for([&] { return has_checkpoint(out); }, 60s)) << log_of(out, job);
  cluster_->kill_node("n1");
  // Two minutes of silence, and 20 s more.
  EXPECT_TRUE(wait_for([&] { return cluster_->field(job, "Restarts") == "1"; }, 240s)) << log_of(out, job);
  cluster_->restart_node("n1");  // there are no other nodes
  EXPECT_EQ(cluster_->wait(job, kJobDeadline), "COMPLETED") << log_of(out, job);
  EXPECT_EQ(results(out), undisturbed_);
}

}  // namespace
}  // namespace finesweep::tests

int main(int argc, char** argv) {
  ::testing::InitGoogleMock(&argc, argv);
  const std::string missing = finesweep::tests::Cluster::missing();
  if (!missing.empty() && !GTEST_FLAG_GET(list_tests)) {
    std::cerr << "\n*** NOT TESTED under Slurm: " << missing << " ***\n\n";
    return 77;
  }
  return RUN_ALL_TESTS();
}
