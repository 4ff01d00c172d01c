#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "reports/markdown.h"
#include "reports/profile_table.h"
#include "storage/files.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::reports {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kProfile = R"({"mode": "forward", "iterations": 20, "groups": [
  {"group": "attention", "ms": 1.5, "share": 0.3, "calls": 40},
  {"group": "feed-forward", "ms": 3.5, "share": 0.7, "calls": 20}]})";

TEST(Profile, is_a_table_of_means_over_repeats_by_falling_time) {
  RunBuilder run;
  for (int r : {0, 1}) run.trial("a", "A", r, {}, {{"benchmark", StepKind::benchmark, "b" + std::to_string(r)}});
  RunData& data = run.data();
  data.profiles[JobId::of("b0")] = *parse_profiles(kProfile);
  data.profiles[JobId::of("b1")] = *parse_profiles(kProfile);
  data.profiles[JobId::of("b1")][0].groups[0].ms = 2.5;
  const auto tables = profile_tables(analyze(data));
  ASSERT_EQ(tables.size(), 1u);
  EXPECT_EQ(tables[0].title, "benchmark, forward (20 iterations)");
  EXPECT_THAT(tables[0].groups, ElementsAre("feed-forward", "attention"));
  ASSERT_EQ(tables[0].rows.size(), 1u);
  EXPECT_EQ(tables[0].rows[0].cells[0].text, "0.1750 (70 %, 1 call)");  // 3.5 ms and 20 calls in 20 iterations
  EXPECT_EQ(tables[0].rows[0].cells[1].text, "0.1000 (30 %, 2 calls)");
  EXPECT_THAT(markdown_report(analyze(data)), HasSubstr("| A | 0.1750 (70 %, 1 call) | 0.1000 (30 %, 2 calls) |"));
}

TEST(Profile, comes_from_the_artifact_of_the_job) {
  storage::TemporaryFolder folder;
  const RunData made_up = single_repeat_run();
  const JobId with = made_up.plan.trials[0].steps[1].job, broken = made_up.plan.trials[1].steps[1].job;
  const storage::RunDirectory directory(folder.path());
  ASSERT_TRUE(directory.create().ok());
  for (const JobId& job : {with, broken}) std::filesystem::create_directories(directory.artifact(job));
  ASSERT_TRUE(storage::write_file_atomically(directory.artifact(with) / "profile.json", kProfile).ok());
  ASSERT_TRUE(storage::write_file_atomically(directory.artifact(broken) / "profile.json", "{\"groups\": 3").ok());
  storage::Store store = std::move(*storage::Store::create_or_open(folder.path()));
  ASSERT_TRUE(store.begin_generation("node", 1, 1).ok());
  Plan plan = made_up.plan;
  for (const auto& [id, job] : made_up.jobs) plan.jobs.emplace_back().id = id;
  ASSERT_TRUE(store.save_plan(plan, "").ok());
  for (const auto& [id, job] : made_up.jobs) {
    Outcome outcome = *job.outcome;
    outcome.has_artifact = true;
    ASSERT_TRUE(
        store.apply({storage::AttemptStarted{{id, 1}, 1, "node", 2}, storage::JobSucceeded{{id, 1}, outcome, 3}})
            .ok());
  }
  const auto data = read_run_data(store, directory);
  ASSERT_TRUE(data.ok()) << data.error().message;
  ASSERT_EQ(data->profiles.size(), 1u);
  EXPECT_EQ(data->profiles.at(with)[0].groups[1].name, "feed-forward");
  EXPECT_THAT(data->remarks, ElementsAre(HasSubstr("The profile of benchmark of bbbbbbbb.0 cannot be read")));
}

TEST(Profile, of_a_gpu_has_a_table_of_the_device_too) {
  RunBuilder run;
  run.trial("a", "A", 0, {}, {{"benchmark", StepKind::benchmark, "b"}});
  run.data().profiles[JobId::of("b")] = *parse_profiles(
      R"([{"mode": "train", "iterations": 2, "total_ms": 4, "groups": [
          {"group": "products", "ms": 4, "share": 1, "calls": 6, "device_ms": 8, "device_share": 1}]}])");
  const auto tables = profile_tables(analyze(run.data()));
  ASSERT_EQ(tables.size(), 2u);
  EXPECT_EQ(tables[0].rows[0].cells[0].text, "2 (100 %, 3 calls)");
  EXPECT_EQ(tables[1].title, "benchmark, train, on the device (2 iterations)");
  EXPECT_EQ(tables[1].rows[0].cells[0].text, "4 (100 %, 3 calls)");
}

TEST(Profile, of_several_modes_is_a_list) {
  const auto profiles = parse_profiles(std::string("[") + kProfile + "," + kProfile + "]");
  ASSERT_TRUE(profiles.ok());
  EXPECT_EQ(profiles->size(), 2u);
  EXPECT_FALSE(parse_profiles(R"({"mode": "x"})").ok());
  EXPECT_FALSE(parse_profiles(R"({"groups": [{"group": "a", "ms": -1, "share": 0, "calls": 0}]})").ok());
}

}  // namespace
}  // namespace finesweep::reports
