#include "coordinator/slurm_life.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

using storage::StatusSnapshot;
using ::testing::HasSubstr;
using State = StatusSnapshot::State;

SlurmLife life() {
  SlurmLife life;
  life.job = "17";
  life.restarts = 1;
  life.begun_ms = 1000;
  life.ends_ms = 5000;
  life.heartbeat_before_ms = 900;
  life.results_before = 2;
  life.checkpoints_before = {{"aa", 100}};
  return life;
}

StatusSnapshot status(State state, std::optional<int> exit_code) {
  StatusSnapshot status;
  status.state = state;
  status.exit_code = exit_code;
  status.slurm_job = "17";
  status.heartbeat_ms = 2000;
  return status;
}

const Harvest kNothing{2, {{"aa", 100}}};
const Harvest kCheckpoint{2, {{"aa", 150}}};

TEST(SlurmLife, a_result_or_a_later_checkpoint_is_something) {
  EXPECT_FALSE(brought_something(life(), kNothing));
  EXPECT_TRUE(brought_something(life(), {3, {{"aa", 100}}}));
  EXPECT_TRUE(brought_something(life(), kCheckpoint));
  EXPECT_TRUE(brought_something(life(), {2, {{"aa", 100}, {"bb", 1}}}));
  EXPECT_FALSE(brought_something(life(), {2, {{"aa", 100}, {"bb", 0}}})) << "of step 0: nothing";
  EXPECT_FALSE(brought_something(life(), {2, {{"aa", 90}}}));
}

TEST(SlurmLife, an_interrupted_sweep_is_requeued_where_its_life_brought_something) {
  const Verdict on = judge_life(life(), status(State::interrupted, 3), kCheckpoint, 3);
  EXPECT_TRUE(on.requeue);
  EXPECT_EQ(on.exit_code, 3);
  const Verdict off = judge_life(life(), status(State::interrupted, 3), kNothing, 3);
  EXPECT_FALSE(off.requeue);
  EXPECT_EQ(off.exit_code, 3);
  EXPECT_THAT(off.message, HasSubstr("neither a result nor a checkpoint"));
}

TEST(SlurmLife, a_dead_coordinator_is_judged_in_the_same_way) {
  EXPECT_TRUE(judge_life(life(), status(State::running, std::nullopt), kCheckpoint, 137).requeue);
  EXPECT_FALSE(judge_life(life(), status(State::running, std::nullopt), kNothing, 137).requeue);
}

TEST(SlurmLife, a_sweep_that_ended_gives_its_own_exit_code_whatever_srun_says) {
  for (const int exit_code : {0, 1}) {
    const Verdict over = judge_life(life(), status(State::finished, exit_code), kCheckpoint, 137);
    EXPECT_FALSE(over.requeue);
    EXPECT_EQ(over.exit_code, exit_code);
  }
  EXPECT_EQ(judge_life(life(), status(State::failed, 4), kCheckpoint, 0).exit_code, 4);
}

TEST(SlurmLife, a_status_of_another_life_or_job_says_nothing) {
  StatusSnapshot before = status(State::finished, 0);
  before.heartbeat_ms = 900;
  StatusSnapshot other = status(State::running, std::nullopt);
  other.slurm_job = "16";
  for (const auto& said : {std::optional(before), std::optional(other), std::optional<StatusSnapshot>()}) {
    const Verdict verdict = judge_life(life(), said, kCheckpoint, 2);
    EXPECT_FALSE(verdict.requeue);
    EXPECT_EQ(verdict.exit_code, 2);
    EXPECT_EQ(judge_life(life(), said, kCheckpoint, 0).exit_code, 4) << "never a success";
    EXPECT_EQ(judge_life(life(), said, kCheckpoint, 139).exit_code, 4);
  }
}

TEST(SlurmRecordTest, comes_back_as_it_was_written) {
  const storage::TemporaryFolder folder;
  const storage::RunDirectory run(folder.path());
  ASSERT_TRUE(read_slurm_record(run));
  EXPECT_FALSE(read_slurm_record(run)->has_value());
  SlurmRecord record;
  record.submitted_job = "18";
  record.submitted_ms = 1500;
  ASSERT_TRUE(write_slurm_record(run, record));
  const SlurmRecord back = **read_slurm_record(run);
  EXPECT_EQ(back.submitted_job, "18");
  EXPECT_EQ(back.submitted_ms, 1500);
  EXPECT_TRUE(waits_in_queue(run, back));
  SlurmLife begun = life();
  ASSERT_TRUE(write_slurm_life(run, begun));
  EXPECT_TRUE(waits_in_queue(run, back)) << "another job's life";
  begun.job = "18";
  ASSERT_TRUE(write_slurm_life(run, begun));
  EXPECT_FALSE(waits_in_queue(run, back));
  EXPECT_FALSE(waits_in_queue(run, SlurmRecord())) << "nothing was submitted";
}

TEST(SlurmRecordTest, each_job_has_its_own_life) {
  const storage::TemporaryFolder folder;
  const storage::RunDirectory run(folder.path());
  SlurmLife first = life(), second = life();
  first.job = "21";
  second.job = "22_3";
  second.results_before = first.results_before + 5;
  ASSERT_TRUE(write_slurm_life(run, first));
  ASSERT_TRUE(write_slurm_life(run, second));
  const auto back = read_slurm_life(run, "21"), other = read_slurm_life(run, "22_3");
  ASSERT_TRUE(back && *back && other && *other);
  EXPECT_EQ((*back)->job, "21");
  EXPECT_EQ((*back)->results_before, first.results_before);
  EXPECT_EQ((*back)->checkpoints_before, first.checkpoints_before);
  EXPECT_EQ((*back)->ends_ms, first.ends_ms);
  EXPECT_EQ((*back)->restarts, 1);
  EXPECT_EQ((*other)->results_before, second.results_before);
  ASSERT_TRUE(read_slurm_life(run, "23"));
  EXPECT_FALSE(read_slurm_life(run, "23")->has_value());
  std::ofstream(folder.path() / "slurm-lives/21.json") << "{}";
  EXPECT_FALSE(read_slurm_life(run, "21"));
}

TEST(SlurmLife, the_highest_step_of_all_attempts_counts) {
  const storage::TemporaryFolder folder;
  const storage::RunDirectory run(folder.path());
  ASSERT_TRUE(run.create());
  const JobId job = JobId::of("job");
  for (const auto& [attempt, step] : {std::pair{1, "step-80"}, {2, "step-100"}, {3, "step-9"}, {3, "step-x"}}) {
    ASSERT_TRUE(run.prepare_staging({job, attempt}));
    std::filesystem::create_directories(run.checkpoints({job, attempt}) / step);
  }
  const Harvest harvest = take_stock(run);
  EXPECT_EQ(harvest.results, 0);
  EXPECT_EQ(harvest.checkpoints, (std::map<std::string, std::int64_t>{{job.hex(), 100}}));
}

}  // namespace
}  // namespace finesweep::coordinator
