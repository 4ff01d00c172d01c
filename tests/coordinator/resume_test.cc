#include "coordinator/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "coordinator/publisher.h"
#include "storage/files.h"
#include "tests/storage/sample_plan.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

namespace fs = std::filesystem;
using storage::sample_id;

/// A run whose plan is two trials of a fine-tuning and an evaluation, without chains.
class ResumeTest : public testing::Test {
 protected:
  void SetUp() override {
    for (Job& job : plan.jobs) job.continues.reset();
    ASSERT_TRUE(run.create().ok());
    store.emplace(std::move(storage::Store::create_or_open(run.path()).value()));
    ASSERT_TRUE(store->begin_generation("host", 1, 0).ok());
    ASSERT_TRUE(store->save_plan(plan, "name: sample\n").ok());
  }

  void stage(const AttemptKey& attempt) {
    ASSERT_TRUE(run.prepare_staging(attempt).ok());
    fs::create_directory(run.staged_artifact(attempt));
    ASSERT_TRUE(storage::write_file_atomically(run.staged_artifact(attempt) / "weights", "weights").ok());
    storage::Manifest manifest;
    manifest.job = attempt.job;
    manifest.attempt = attempt.number;
    manifest.outcome = success(true);
    ASSERT_TRUE(storage::seal_artifact(run.staged_artifact(attempt), manifest).ok());
  }

  static Outcome success(bool has_artifact) {
    Outcome outcome;
    outcome.kind = OutcomeKind::succeeded;
    outcome.has_artifact = has_artifact;
    outcome.metrics["loss"] = 0.5;
    return outcome;
  }

  void succeed(const JobId& job, bool has_artifact, AttemptNumber number = 1) {
    const AttemptKey attempt{job, number};
    if (has_artifact) {
      stage(attempt);
      ASSERT_TRUE(run.publish(attempt).ok());
    }
    const Status applied = store->apply({storage::AttemptStarted{attempt, 1, "host", 0},
                                         storage::AttemptEnded{attempt, AttemptEnd::succeeded, "", 0},
                                         storage::JobSucceeded{attempt, success(has_artifact), 0}});
    ASSERT_TRUE(applied.ok()) << applied.error().message;
  }

  std::map<JobId, JobHistory> resumed() {
    auto history = resume(*store, run, plan, true);
    EXPECT_TRUE(history.ok()) << (history.ok() ? "" : history.error().message);
    return *history;
  }

  storage::TemporaryFolder folder;
  const storage::RunDirectory run{folder / "run"};
  Plan plan = storage::sample_plan(2);
  std::optional<storage::Store> store;
  const JobId finetune = sample_id("finetune 0"), evaluate = sample_id("evaluate 0");
};

TEST_F(ResumeTest, a_job_whose_artifact_was_removed_runs_again_where_another_needs_it) {
  succeed(finetune, true);
  fs::remove_all(run.artifact(finetune));
  const auto history = resumed();
  EXPECT_EQ(history.at(finetune).phase, JobPhase::waiting);
  EXPECT_EQ(history.at(finetune).attempts, 1) << "attempt numbers go on";
  // And the store takes its new result.
  succeed(finetune, true, 2);
  EXPECT_EQ(resumed().at(finetune).phase, JobPhase::succeeded);
}

TEST_F(ResumeTest, a_removed_artifact_that_nothing_needs_keeps_its_result) {
  succeed(finetune, true);
  succeed(evaluate, false);
  fs::remove_all(run.artifact(finetune));
  EXPECT_EQ(resumed().at(finetune).phase, JobPhase::succeeded);
}

TEST_F(ResumeTest, an_artifact_that_is_there_is_not_made_again) {
  succeed(finetune, true);
  EXPECT_EQ(resumed().at(finetune).phase, JobPhase::succeeded);
}

TEST_F(ResumeTest, what_a_lost_artifact_was_made_from_is_looked_for_too) {
  // evaluate 1 needs finetune 1, which continues finetune 0.
  plan = storage::sample_plan(2);
  ASSERT_TRUE(store->save_plan(plan, "name: sample\n").ok());
  const JobId second = sample_id("finetune 1");
  succeed(finetune, true);
  succeed(evaluate, false);
  succeed(second, true);
  fs::remove_all(run.artifact(finetune));
  EXPECT_EQ(resumed().at(finetune).phase, JobPhase::succeeded) << "finetune 1 is there";
  fs::remove_all(run.artifact(second));
  const auto history = resumed();
  EXPECT_EQ(history.at(second).phase, JobPhase::waiting);
  EXPECT_EQ(history.at(finetune).phase, JobPhase::waiting);
}

TEST_F(ResumeTest, what_a_dead_coordinator_left_in_staging_goes_once_its_job_has_a_result_and_else_stays) {
  // The first result was recorded; the second artifact was published, and is adopted now.
  succeed(finetune, true);
  const JobId adopted = sample_id("finetune 1");
  ASSERT_TRUE(store->apply({storage::AttemptStarted{{adopted, 1}, 1, "host", 0}}).ok());
  stage({adopted, 1});
  ASSERT_TRUE(run.publish({adopted, 1}).ok());
  ASSERT_TRUE(store->apply({storage::AttemptStarted{{evaluate, 1}, 1, "host", 0}}).ok());
  stage({evaluate, 1});
  ASSERT_EQ(run.staged_attempts().size(), 3u);
  EXPECT_EQ(resumed().at(adopted).phase, JobPhase::succeeded);
  EXPECT_EQ(run.staged_attempts(), std::vector<AttemptKey>({{evaluate, 1}}));
}

TEST_F(ResumeTest, the_publisher_verifies_beside_and_tells_of_each_artifact_once) {
  stage({finetune, 1});
  ASSERT_TRUE(run.prepare_staging({evaluate, 1}).ok());  // without an artifact
  Publisher publisher(run);
  publisher.submit({finetune, 1});
  publisher.submit({evaluate, 1});
  std::vector<Publisher::Done> done;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (done.size() < 2 && std::chrono::steady_clock::now() < deadline) {
    for (auto& one : publisher.take()) done.push_back(std::move(one));
    std::this_thread::yield();
  }
  ASSERT_EQ(done.size(), 2u);
  EXPECT_EQ(done[0].attempt.job, finetune);
  EXPECT_TRUE(done[0].manifest.ok());
  EXPECT_TRUE(fs::exists(run.artifact(finetune) / "weights"));
  EXPECT_FALSE(done[1].manifest.ok());
  EXPECT_TRUE(publisher.take().empty());
}

}  // namespace
}  // namespace finesweep::coordinator
