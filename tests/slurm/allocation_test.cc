#include "slurm/allocation.h"

#include <gtest/gtest.h>

#include <map>

namespace finesweep::slurm {
namespace {

std::optional<Allocation> allocation_of(const std::map<std::string, std::string>& variables) {
  return read_allocation([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(AllocationTest, outside_of_a_job_there_is_none) {
  EXPECT_FALSE(allocation_of({}));
  EXPECT_FALSE(allocation_of({{"SLURM_JOB_ID", ""}}));
}

TEST(AllocationTest, a_job_says_which_life_it_is_and_what_it_was_given) {
  const auto first = allocation_of({{"SLURM_JOB_ID", "17"}});
  ASSERT_TRUE(first);
  EXPECT_EQ(first->job, "17");
  EXPECT_EQ(first->restarts, 0) << "Slurm sets no count in a first life";
  EXPECT_EQ(first->cpus_per_task, 0);
  const auto later = allocation_of({{"SLURM_JOB_ID", "17"},
                                    {"SLURM_RESTART_COUNT", "2"},
                                    {"SLURM_CPUS_PER_TASK", "4"},
                                    {"SLURMD_NODENAME", "n3"}});
  EXPECT_EQ(later->restarts, 2);
  EXPECT_EQ(later->cpus_per_task, 4);
  EXPECT_EQ(later->node, "n3");
}

TEST(AllocationTest, time_left_is_read_in_every_form_that_squeue_has) {
  EXPECT_EQ(parse_time_left("59\n"), 59);
  EXPECT_EQ(parse_time_left("1:26"), 86);
  EXPECT_EQ(parse_time_left("1:02:03"), 3723);
  EXPECT_EQ(parse_time_left("1-02:03:04"), 93784);
  EXPECT_EQ(parse_time_left("2-00"), 172800);
  EXPECT_EQ(parse_time_left("0:00"), 0);
  for (const char* none : {"UNLIMITED", "NOT_SET", "INVALID", "", "1:2:3:4", "x:1", "-5", "1-", "1:"})
    EXPECT_FALSE(parse_time_left(none)) << none;
}

}  // namespace
}  // namespace finesweep::slurm
