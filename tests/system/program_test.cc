// The program as a user meets it: exit codes, files, commands, and what it says about bad input.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "jobs/json.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

struct Ended {
  int exit_code;
  std::string output;
};

Ended run_to_end(const std::vector<std::string>& command, const fs::path& folder) {
  Process process(command, folder);
  const auto exit_code = process.wait(120s);
  return {exit_code.value_or(-1), process.output()};
}

std::string program() {
  return finesweep_program();
}

TEST(Program, a_sweep_runs_over_mpi_and_leaves_every_file_that_is_promised) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(40);
  const auto ended = run_to_end({program(), "run", sweep}, workspace.path());
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const fs::path run = workspace / "runs/small";
  for (const char* file :
       {"sweep.yaml", "finesweep.db", "status.json", "events.jsonl", "reports/report.md", "reports/report.json",
        "reports/results.csv", "reports/summary.csv", "reports/history.csv"})
    EXPECT_TRUE(fs::is_regular_file(run / file)) << file;
  EXPECT_TRUE(fs::is_empty(run / "staging"));
  int artifacts = 0;
  for (const auto& artifact : fs::directory_iterator(run / "artifacts")) {
    EXPECT_TRUE(fs::exists(artifact.path() / "manifest.json"));
    ++artifacts;
  }
  EXPECT_EQ(artifacts, 4);
  const Json status = Json::parse(read_text(run / "status.json"));
  EXPECT_EQ(status.value("state", ""), "finished");
  EXPECT_EQ(status.value("exit_code", -1), 0);
  const std::string results = read_text(run / "reports/results.csv");
  EXPECT_TRUE(results.starts_with("trial,label,repeat,seed,state,finetune.method,")) << results;
  EXPECT_EQ(std::count(results.begin(), results.end(), '\n'), 5);
  EXPECT_NE(ended.output.find("report.md"), std::string::npos) << ended.output;
}

TEST(Program, a_second_run_does_nothing_again_and_a_changed_sweep_runs_only_what_is_new) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(30);
  ASSERT_EQ(run_to_end({program(), "run", sweep}, workspace.path()).exit_code, 0);
  const std::string before = read_text(workspace / "runs/small/reports/results.csv");
  const auto again = run_to_end({program(), "run", sweep}, workspace.path());
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_EQ(again.output.find("succeeded  "), std::string::npos) << again.output;
  EXPECT_EQ(read_text(workspace / "runs/small/reports/results.csv"), before);

  const auto more = run_to_end({program(), "run", sweep, "--set", "sweep.repeats=3"}, workspace.path());
  EXPECT_EQ(more.exit_code, 0) << more.output;
  int succeeded = 0;
  for (std::size_t at = 0; (at = more.output.find("succeeded  ", at)) != std::string::npos; ++at) ++succeeded;
  EXPECT_EQ(succeeded, 4) << more.output;  // two methods × (finetune, evaluate) of the third repeat
}

TEST(Program, the_number_of_workers_does_not_change_a_result) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(40);
  ASSERT_EQ(run_to_end({program(), "run", sweep, "--out", "one", "--workers", "1"}, workspace.path()).exit_code, 0);
  const auto three = run_to_end(mpirun(4, {program(), "run", sweep, "--out", "three"}), workspace.path());
  ASSERT_EQ(three.exit_code, 0) << three.output;
  EXPECT_EQ(without_measured_columns(read_text(workspace / "one/reports/results.csv")),
            without_measured_columns(read_text(workspace / "three/reports/results.csv")));
}

TEST(Program, a_wrong_sweep_file_exits_2_says_all_and_makes_no_folder) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(40);
  std::string text = read_text(sweep);
  text.replace(text.find("rank: 4"), 7, "rnak: 4");
  text.replace(text.find("batch_size: 8"), 13, "batch_size: -8");
  workspace.write("wrong.yaml", text);
  for (const auto& command :
       {std::vector<std::string>{program(), "run", "wrong.yaml"}, mpirun(3, {program(), "run", "wrong.yaml"})}) {
    const auto ended = run_to_end(command, workspace.path());
    EXPECT_EQ(ended.exit_code, 2) << ended.output;
    EXPECT_NE(ended.output.find("rank"), std::string::npos) << ended.output;
    EXPECT_NE(ended.output.find("batch_size"), std::string::npos) << ended.output;
    EXPECT_NE(ended.output.find("wrong.yaml:"), std::string::npos) << ended.output;
    EXPECT_FALSE(fs::exists(workspace / "runs"));
  }
}

TEST(Program, a_job_that_fails_leaves_the_others_whole_and_the_report_names_it) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(40);
  workspace.write("data/broken.jsonl", read_text(workspace / "data/train.jsonl") + "{\"text_a\": \"unfinished\n");
  const auto ended = run_to_end(
      {program(), "run", sweep, "--set", "sweep.axes=[{data.train: [data/train.jsonl, data/broken.jsonl]}]"},
      workspace.path());
  EXPECT_EQ(ended.exit_code, 1) << ended.output;
  const std::string results = read_text(workspace / "runs/small/reports/results.csv");
  EXPECT_NE(results.find("succeeded"), std::string::npos) << results;
  EXPECT_NE(results.find("failed"), std::string::npos) << results;
  EXPECT_NE(results.find("broken.jsonl:201"), std::string::npos) << results;
  EXPECT_EQ(results.find(workspace.path().string()), std::string::npos) << "no path belongs into a result\n"
                                                                        << results;
  EXPECT_NE(read_text(workspace / "runs/small/reports/report.md").find("broken.jsonl"), std::string::npos);
}

TEST(Program, a_second_coordinator_on_one_directory_is_refused_with_the_first_ones_pid) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(2000);
  Process first({program(), "run", sweep, "--out", "shared"}, workspace.path());
  ASSERT_TRUE(wait_for([&] { return fs::exists(workspace / "shared/status.json"); }, 60s)) << first.output();
  const Json status = Json::parse(read_text(workspace / "shared/status.json"));
  const auto second = run_to_end(mpirun(2, {program(), "run", sweep, "--out", "shared"}), workspace.path());
  EXPECT_EQ(second.exit_code, 4) << second.output;
  EXPECT_NE(second.output.find(std::to_string(status.value("pid", 0))), std::string::npos) << second.output;
  first.signal(SIGINT);
  EXPECT_EQ(first.wait(60s), 3) << first.output();
}

TEST(Program, status_and_report_answer_while_a_sweep_runs) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(2000);
  Process running({program(), "run", sweep, "--out", "live"}, workspace.path());
  ASSERT_TRUE(wait_for(
      [&] { return read_text(workspace / "live/events.jsonl").find("attempt_started") != std::string::npos; }, 60s))
      << running.output();
  const auto status = run_to_end({program(), "status", "live"}, workspace.path());
  EXPECT_EQ(status.exit_code, 0) << status.output;
  EXPECT_NE(status.output.find("running"), std::string::npos) << status.output;
  const auto json = run_to_end({program(), "status", "live", "--json"}, workspace.path());
  EXPECT_TRUE(Json::accept(json.output)) << json.output;
  fs::remove(workspace / "live/reports/results.csv");
  const auto report = run_to_end({program(), "report", "live"}, workspace.path());
  EXPECT_EQ(report.exit_code, 0) << report.output;
  EXPECT_NE(read_text(workspace / "live/reports/results.csv").find("pending"), std::string::npos);
  running.signal(SIGINT);
  EXPECT_EQ(running.wait(60s), 3) << running.output();
}

TEST(Program, one_whose_launcher_hangs_can_be_stopped) {
  const Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep();
  fs::create_directory(workspace / "bin");
  workspace.write("bin/mpirun", "#!/bin/bash\ntrap '' USR1\ntouch began\nwhile :; do sleep 1; done\n");
  fs::permissions(workspace / "bin/mpirun", fs::perms::owner_all);
  Process run({finesweep_program(), "run", sweep}, workspace.path(),
              {"PATH=" + (workspace / "bin").string() + ":" + std::getenv("PATH")});
  ASSERT_TRUE(wait_for([&] { return fs::exists(workspace / "began"); }, 20s)) << run.output();
  run.signal(SIGTERM);
  EXPECT_EQ(run.wait(40s), 3) << run.output();
  EXPECT_TRUE(run.wait_until_gone(5s).empty());
}

TEST(Program, a_machine_without_mpirun_is_told_so_once) {
  const Workspace workspace;
  fs::create_directory(workspace / "empty");
  Process run({finesweep_program(), "run", workspace.make_small_sweep()}, workspace.path(),
              {"PATH=" + (workspace / "empty").string()});
  EXPECT_EQ(run.wait(20s), 4) << run.output();
  EXPECT_NE(run.output().find("mpirun: cannot be started"), std::string::npos) << run.output();
  EXPECT_NE(run.output().find("needs Open MPI's mpirun in PATH"), std::string::npos) << run.output();
  EXPECT_EQ(run.output().find("died"), std::string::npos) << run.output();
}

TEST(Program, plan_shows_trials_and_starts_nothing) {
  Workspace workspace;
  const fs::path sweep = workspace.make_small_sweep(40);
  const auto ended = run_to_end({program(), "plan", sweep}, workspace.path());
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_FALSE(fs::exists(workspace / "runs"));
  const auto json = run_to_end({program(), "plan", sweep, "--json"}, workspace.path());
  EXPECT_EQ(json.exit_code, 0);
  EXPECT_TRUE(Json::accept(json.output)) << json.output;
}

TEST(Program, init_prints_a_sweep_and_doctor_looks_around) {
  Workspace workspace;
  const auto starter = run_to_end({program(), "init"}, workspace.path());
  EXPECT_EQ(starter.exit_code, 0);
  EXPECT_NE(starter.output.find("pipeline:"), std::string::npos);
  EXPECT_EQ(run_to_end({program(), "init", "no-such-template"}, workspace.path()).exit_code, 2);
  const auto doctor = run_to_end({program(), "doctor", "."}, workspace.path());
  EXPECT_EQ(doctor.exit_code, 0) << doctor.output;
  EXPECT_NE(doctor.output.find("libtorch"), std::string::npos) << doctor.output;
}

TEST(Program, the_command_line_explains_itself) {
  Workspace workspace;
  const auto help = run_to_end({program(), "--help"}, workspace.path());
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word : {"run", "plan", "status", "report", "doctor", "init", "Exit codes"})
    EXPECT_NE(help.output.find(word), std::string::npos) << word;
  EXPECT_EQ(run_to_end({program(), "rnu"}, workspace.path()).exit_code, 2);
  EXPECT_EQ(run_to_end({program(), "run", "no-such-file.yaml"}, workspace.path()).exit_code, 2);
}

TEST(Program, an_idle_worker_costs_under_two_per_cent_of_a_core) {
  Workspace workspace;
  // One chain of jobs and three workers: two of them wait.
  const fs::path sweep = workspace.make_small_sweep(4000);
  Process run({program(), "run", sweep, "--workers", "3", "--set", "sweep.axes=[]", "--set", "sweep.repeats=1"},
              workspace.path());
  ASSERT_TRUE(wait_for(
      [&] { return read_text(workspace / "runs/small/events.jsonl").find("attempt_started") != std::string::npos; },
      60s))
      << run.output();
  std::vector<pid_t> ranks;
  for (const auto& [pid, command] : run.family())
    if (command.find("finesweep run") != std::string::npos && command.find("mpirun") == std::string::npos &&
        pid != run.pid())
      ranks.push_back(pid);
  ASSERT_EQ(ranks.size(), 4u);
  auto cpu_seconds = [](pid_t pid) {
    const std::string stat = read_text("/proc/" + std::to_string(pid) + "/stat");
    std::stringstream fields(stat.substr(stat.rfind(')') + 2));
    std::string skipped;
    double user = 0, system = 0;
    for (int i = 0; i < 11; ++i) fields >> skipped;
    fields >> user >> system;
    return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  };
  std::vector<double> before;
  for (pid_t pid : ranks) before.push_back(cpu_seconds(pid));
  const auto begun = std::chrono::steady_clock::now();
  // Time is what is measured here: a window of four seconds of waiting.
  wait_for([] { return false; }, 4s);
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  for (std::size_t i = 0; i < ranks.size(); ++i)
    EXPECT_LT((cpu_seconds(ranks[i]) - before[i]) / wall, 0.02) << "rank with pid " << ranks[i];
  run.signal(SIGINT);
  run.wait(60s);
}

}  // namespace
}  // namespace finesweep::tests
