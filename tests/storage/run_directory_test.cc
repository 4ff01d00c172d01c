#include "storage/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/files.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::storage {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class RunDirectoryTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(run.create().ok()); }

  /// Leaves a sealed artifact in the attempt's staging folder.
  void stage(const AttemptKey& attempt, const std::string& weights = "weights") {
    ASSERT_TRUE(run.prepare_staging(attempt).ok());
    fs::create_directory(run.staged_artifact(attempt));
    write_plainly(run.staged_artifact(attempt) / "weights", weights);
    Manifest manifest;
    manifest.job = attempt.job;
    manifest.attempt = attempt.number;
    manifest.outcome = sample_outcome(attempt.number);
    ASSERT_TRUE(seal_artifact(run.staged_artifact(attempt), manifest).ok());
  }

  TemporaryFolder folder;
  const RunDirectory run{folder / "runs/sweep"};
  const JobId job = sample_id("finetune 0");
};

TEST_F(RunDirectoryTest, paths_are_absolute_and_stand_where_the_documentation_says) {
  const std::string id = job.hex();
  EXPECT_EQ(RunDirectory("x/").path(), fs::current_path() / "x");
  EXPECT_EQ(run.staging({job, 3}), folder / ("runs/sweep/staging/" + id + ".3"));
  EXPECT_EQ(run.artifact(job), folder / ("runs/sweep/artifacts/" + id));
  EXPECT_EQ(run.log({job, 3}), folder / ("runs/sweep/logs/" + id + ".3.log"));
  EXPECT_FALSE(run.holds_run());
}

TEST_F(RunDirectoryTest, an_artifact_moves_from_staging_to_its_place) {
  stage({job, 1});
  const Result<Manifest> published = run.publish({job, 1});
  ASSERT_TRUE(published.ok()) << published.error().message;
  EXPECT_EQ(published->attempt, 1);
  EXPECT_EQ(*read_file(run.artifact(job) / "weights"), "weights");
  EXPECT_FALSE(fs::exists(run.staged_artifact({job, 1})));
}

TEST_F(RunDirectoryTest, what_is_published_already_is_adopted_and_not_replaced) {
  stage({job, 1}, "first");
  ASSERT_TRUE(run.publish({job, 1}).ok());
  stage({job, 2}, "second");
  const Result<Manifest> again = run.publish({job, 2});
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->attempt, 1);
  EXPECT_EQ(again->outcome.metrics.at("accuracy"), 1.0);
  EXPECT_EQ(*read_file(run.artifact(job) / "weights"), "first");
}

TEST_F(RunDirectoryTest, a_damaged_artifact_in_the_way_is_named_and_left_alone) {
  stage({job, 1});
  ASSERT_TRUE(run.publish({job, 1}).ok());
  write_plainly(run.artifact(job) / "weights", "weighty");
  stage({job, 2});
  const Result<Manifest> refused = run.publish({job, 2});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("remove the folder " + run.artifact(job).string()));
  EXPECT_EQ(*read_file(run.artifact(job) / "weights"), "weighty");
}

TEST_F(RunDirectoryTest, what_is_torn_in_staging_is_not_published) {
  stage({job, 1});
  write_plainly(run.staged_artifact({job, 1}) / "weights", "w");
  EXPECT_FALSE(run.publish({job, 1}).ok());
  EXPECT_FALSE(fs::exists(run.artifact(job)));
  EXPECT_FALSE(run.publish({job, 2}).ok()) << "nothing was staged";
}

TEST_F(RunDirectoryTest, another_attempts_artifact_is_not_published) {
  stage({job, 1});
  fs::create_directory(run.staging({job, 2}));
  fs::rename(run.staged_artifact({job, 1}), run.staged_artifact({job, 2}));
  EXPECT_THAT(run.publish({job, 2}).error().message, HasSubstr("is of attempt 1, not of attempt 2"));
}

TEST_F(RunDirectoryTest, artifacts_that_were_renamed_but_not_recorded_are_found_again) {
  const JobId recorded = sample_id("recorded"), torn = sample_id("torn");
  for (const JobId& id : {job, recorded, torn}) {
    stage({id, 1});
    ASSERT_TRUE(run.publish({id, 1}).ok());
  }
  write_plainly(run.artifact(torn) / "weights", "");
  fs::create_directory(folder / "runs/sweep/artifacts/notes");
  std::vector<std::string> rejected;
  const auto found = run.unrecorded_artifacts([&](const JobId& id) { return id == recorded; }, &rejected);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].job, job);
  EXPECT_THAT(rejected, ElementsAre(HasSubstr(torn.hex())));
}

TEST_F(RunDirectoryTest, checkpoints_of_earlier_attempts_are_listed_newest_first) {
  for (int number : {1, 2, 10}) {
    ASSERT_TRUE(run.prepare_staging({job, number}).ok());
    if (number != 2) fs::create_directory(run.checkpoints({job, number}));
  }
  EXPECT_THAT(run.earlier_checkpoints({job, 11}),
              ElementsAre(run.checkpoints({job, 10}), run.checkpoints({job, 1})));
  EXPECT_THAT(run.earlier_checkpoints({job, 10}), ElementsAre(run.checkpoints({job, 1})));
  EXPECT_THAT(run.earlier_checkpoints({job, 1}), IsEmpty());
}

TEST_F(RunDirectoryTest, staging_of_a_finished_job_goes_and_that_of_others_stays) {
  const JobId other = sample_id("other");
  for (const AttemptKey& attempt : {AttemptKey{job, 1}, AttemptKey{job, 2}, AttemptKey{other, 1}}) stage(attempt);
  ASSERT_TRUE(run.remove_staging(job).ok());
  EXPECT_THAT(run.staged_attempts(), ElementsAre(AttemptKey{other, 1}));
}

TEST_F(RunDirectoryTest, a_prepared_staging_folder_is_empty) {
  stage({job, 1});
  ASSERT_TRUE(run.prepare_staging({job, 1}).ok());
  EXPECT_TRUE(fs::is_empty(run.staging({job, 1})));
}

TEST(Files, a_rename_never_replaces_anything) {
  TemporaryFolder folder;
  write_plainly(folder / "a", "a");
  write_plainly(folder / "b", "b");
  EXPECT_THAT(rename_durably(folder / "a", folder / "b").error().message, HasSubstr("something is there already"));
  fs::create_directory(folder / "empty");
  EXPECT_FALSE(rename_durably(folder / "a", folder / "empty").ok());
  EXPECT_TRUE(rename_durably(folder / "a", folder / "c").ok());
  EXPECT_EQ(*read_file(folder / "b"), "b");
  EXPECT_EQ(*read_file(folder / "c"), "a");
}

TEST(Files, errors_name_the_path_and_the_reason) {
  TemporaryFolder folder;
  EXPECT_EQ(read_file(folder / "none").error().message,
            "cannot read " + (folder / "none").string() + ": No such file or directory");
  EXPECT_THAT(read_file(folder.path()).error().message, HasSubstr("Is a directory"));
  EXPECT_THAT(write_file_atomically(folder / "none/x", "").error().message, HasSubstr("none/x"));
  EXPECT_THAT(sha256_of_file(folder / "none").error().message, HasSubstr("none"));
}

TEST(Files, a_checksum_is_the_one_that_everybody_computes) {
  TemporaryFolder folder;
  write_plainly(folder / "abc", "abc");
  EXPECT_EQ(*sha256_of_file(folder / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace finesweep::storage
