// finesweep compare over run directories that the storage layer wrote.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/unix_time.h"
#include "reports/json_report.h"
#include "reports/report.h"
#include "storage/control.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

/// A run directory with what `data` holds: succeeded jobs as they are, the others as still to be run.
void make_run(const fs::path& folder, const reports::RunData& data) {
  const storage::RunDirectory run(folder);
  ASSERT_TRUE(run.create().ok());
  storage::Store store = std::move(*storage::Store::create_or_open(folder));
  ASSERT_TRUE(store.begin_generation("node", 1, 1).ok());
  Plan plan = data.plan;
  for (const auto& [id, job] : data.jobs) plan.jobs.emplace_back().id = id;
  ASSERT_TRUE(store.save_plan(plan, "").ok());
  for (const auto& [id, job] : data.jobs) {
    if (!job.outcome) continue;
    ASSERT_TRUE(store
                    .apply({storage::AttemptStarted{{id, 1}, 1, "node", 2},
                            storage::JobSucceeded{{id, 1}, *job.outcome, 3}})
                    .ok());
  }
}

struct Ended {
  int exit_code;
  std::string output, errors;
};

Ended compare(const CompareOptions& options) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int exit_code = compare_command(options);
  std::string output = testing::internal::GetCapturedStdout();
  return {exit_code, std::move(output), testing::internal::GetCapturedStderr()};
}

class Compare : public ::testing::Test {
 protected:
  Compare() {
    make_run(folder_ / "study", reports::study_run());
    make_run(folder_ / "mixed", reports::mixed_run());  // with trials that are still to be run
  }
  storage::TemporaryFolder folder_;
};

TEST_F(Compare, finished_and_unfinished_sweeps_stand_in_one_table) {
  const Ended ended = compare({{folder_ / "study", folder_ / "mixed"}, "", "", ""});
  EXPECT_EQ(ended.exit_code, 0) << ended.errors;
  EXPECT_THAT(ended.output, HasSubstr("| configuration | sweep | test accuracy |"));
  EXPECT_THAT(ended.output, HasSubstr("LoRA rank 4 | study |"));
  EXPECT_THAT(ended.output, HasSubstr("LoRA, rank 2 | made-up |"));
  EXPECT_THAT(ended.output, HasSubstr("not finished"));
  EXPECT_FALSE(fs::exists(folder_ / "study/reports/report.md")) << "nothing is written where nothing was asked";
}

TEST_F(Compare, all_formats_are_written_into_a_folder) {
  const Ended ended = compare({{folder_ / "study", folder_ / "mixed"}, folder_ / "both", "", ""});
  EXPECT_EQ(ended.exit_code, 0) << ended.errors;
  for (const char* name : {"report.md", "report.html", "report.json", "results.csv", "summary.csv", "history.csv"})
    EXPECT_TRUE(fs::exists(folder_.path() / "both" / name)) << name;
  EXPECT_THAT(*storage::read_file(folder_ / "both/results.csv"), HasSubstr("\nstudy/lora2.0,"));
  const Ended csv = compare({{folder_ / "study", folder_ / "mixed"}, "", "csv", ""});
  EXPECT_EQ(csv.output, *storage::read_file(folder_ / "both/summary.csv"));
}

TEST_F(Compare, sweeps_of_one_name_go_by_their_folders) {
  make_run(folder_ / "again", reports::study_run());
  const Ended ended = compare({{folder_ / "study", folder_ / "again"}, "", "", ""});
  EXPECT_EQ(ended.exit_code, 0) << ended.errors;
  EXPECT_THAT(ended.output, HasSubstr("LoRA rank 4 (again) | again |"));
}

TEST_F(Compare, all_bad_folders_are_named_with_what_is_wrong) {
  fs::create_directories(folder_ / "empty");
  ASSERT_TRUE(storage::write_file_atomically(folder_ / "file", "x").ok());
  const Ended ended =
      compare({{folder_ / "study", folder_ / "nowhere", folder_ / "empty", folder_ / "file"}, "", "", ""});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_EQ(ended.output, "");
  EXPECT_THAT(ended.errors, HasSubstr((folder_ / "nowhere").string() + ": there is no such folder"));
  EXPECT_THAT(ended.errors, HasSubstr((folder_ / "empty").string() + ": no sweep was run here"));
  EXPECT_THAT(ended.errors, HasSubstr((folder_ / "file").string() + ": a run directory is expected"));
  ASSERT_TRUE(storage::write_file_atomically(folder_ / "empty/finesweep.db", "not a database").ok());
  const Ended damaged = compare({{folder_ / "study", folder_ / "empty"}, "", "", ""});
  EXPECT_EQ(damaged.exit_code, 4);
  EXPECT_THAT(damaged.errors, HasSubstr((folder_ / "empty").string()));
}

TEST_F(Compare, wrong_options_start_nothing) {
  const std::vector<fs::path> both{folder_ / "study", folder_ / "mixed"};
  EXPECT_THAT(compare({both, "", "pdf", ""}).errors, HasSubstr("'pdf' is not one of md, csv, html, json"));
  EXPECT_THAT(compare({both, "", "md,csv", ""}).errors, HasSubstr("--out"));
  const Ended metric = compare({both, "", "", "test.f2"});
  EXPECT_EQ(metric.exit_code, 2);
  EXPECT_THAT(metric.errors, HasSubstr("test.accuracy"));
}

TEST_F(Compare, of_a_running_sweep_its_coordinator_is_asked) {
  const storage::RunDirectory run(folder_ / "mixed");
  storage::StatusSnapshot status;
  status.state = storage::StatusSnapshot::State::running;
  status.heartbeat_ms = unix_ms() + 60'000;
  ASSERT_TRUE(storage::write_status(run.status_file(), status).ok());
  // The part of the coordinator: it answers once, and what it wrote is read instead of the database.
  std::thread coordinator([&] {
    for (int i = 0; i < 1000; ++i) {
      const auto requests = storage::pending_requests(run.control());
      if (requests && !requests->empty()) {
        EXPECT_TRUE(
            reports::write_reports(reports::single_repeat_run(), run.reports(), {reports::Format::json}).ok());
        EXPECT_TRUE(storage::answer_request(run.control(), requests->front().id, {{"ok", true}}).ok());
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "no request came";
  });
  const Ended ended = compare({{folder_ / "study", folder_ / "mixed"}, "", "", "test.perplexity"});
  coordinator.join();
  EXPECT_EQ(ended.exit_code, 0) << ended.errors;
  EXPECT_THAT(ended.output, HasSubstr("FP32 | made-up | **21.50**"));
}

}  // namespace
}  // namespace finesweep::coordinator
