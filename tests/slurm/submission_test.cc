#include "slurm/submission.h"

#include <gmock/gmock.h>

#include "tests/slurm/fake_programs.h"

namespace finesweep::slurm {
namespace {

using ::testing::HasSubstr;

TEST(JobId, is_the_last_line_whatever_a_site_says_before_it) {
  EXPECT_EQ(*parse_job_id("17\n"), "17");
  EXPECT_EQ(*parse_job_id("17;cluster\n"), "17");
  EXPECT_EQ(*parse_job_id("Welcome to Big Iron!\n\n4711\n"), "4711");
  for (const char* none : {"", "\n", "Submitted batch job 17", "sbatch: error", "17x"})
    EXPECT_FALSE(parse_job_id(none)) << none;
}

using Submission = FakePrograms;

TEST_F(Submission, arguments_reach_sbatch_as_they_are) {
  fake_command("sbatch", R"(printf '%s\0' "$@" >"$FAKE/arguments"; echo 17)");
  const auto id = submit("/a b/$(x)\n'.sh", {"--comment=it's $(touch pwned)\n", "--partition=short"});
  ASSERT_TRUE(id) << id.error().message;
  EXPECT_EQ(*id, "17");
  const std::string nul(1, '\0');
  EXPECT_EQ(seen("arguments"), "--parsable" + nul + "--comment=it's $(touch pwned)\n" + nul + "--partition=short" +
                                   nul + "/a b/$(x)\n'.sh" + nul);
}

TEST_F(Submission, a_refusal_is_passed_on) {
  fake_command("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid partition' >&2; exit 1");
  const auto id = submit("x.sh", {});
  ASSERT_FALSE(id);
  EXPECT_THAT(id.error().message, HasSubstr("Invalid partition"));
}

TEST_F(Submission, without_slurm_it_says_what_to_do) {
  setenv("PATH", (folder_ / "bin").c_str(), 1);
  const auto id = submit("x.sh", {});
  ASSERT_FALSE(id);
  EXPECT_THAT(id.error().message, HasSubstr("sbatch cannot be started"));
  EXPECT_THAT(id.error().message, HasSubstr("--dry-run"));
}

TEST_F(Submission, a_running_job_is_requeued_and_a_cancelled_one_is_not) {
  fake_command("scontrol", R"(echo "$@" >>"$FAKE/requeued")");
  fake_command("squeue", "echo RUNNING");
  EXPECT_TRUE(requeue("17"));
  EXPECT_EQ(seen("requeued"), "requeue 17\n");
  fake_command("squeue", "echo COMPLETING");
  const Status refused = requeue("17");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("COMPLETING"));
  EXPECT_EQ(seen("requeued"), "requeue 17\n") << "asked only once";
}

TEST_F(Submission, a_site_that_forbids_requeueing_is_named) {
  fake_command("squeue", "echo RUNNING");
  fake_command("scontrol", "echo 'Requested operation is presently disabled for job 17' >&2; exit 1");
  const Status refused = requeue("17");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("presently disabled"));
}

}  // namespace
}  // namespace finesweep::slurm
