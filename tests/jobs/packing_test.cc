#include "jobs/packing.h"

#include <gtest/gtest.h>

#include <vector>

namespace finesweep {
namespace {

PackTraits job(std::int64_t tokens, std::int64_t most_tokens = 0, double shared_mb = 0, double own_mb = 0) {
  return {0, tokens, most_tokens, shared_mb, own_mb};
}

/// How many of the jobs are admitted one after the other.
std::size_t admitted(PackFill fill, const std::vector<PackTraits>& jobs) {
  std::size_t count = 0;
  for (const PackTraits& next : jobs) {
    if (!fill.admits(next)) break;
    fill.add(next);
    ++count;
  }
  return count;
}

TEST(PackFillTest, the_first_job_is_always_admitted) {
  EXPECT_EQ(admitted(PackFill(1, 10), {job(1 << 20, 100, 500, 500)}), 1u);
  EXPECT_EQ(admitted(PackFill(8, 0), {PackTraits{}}), 1u);
}

TEST(PackFillTest, a_job_without_a_key_joins_nobody) {
  EXPECT_EQ(admitted(PackFill(8, 0), {job(1), PackTraits{}}), 1u);
}

TEST(PackFillTest, jobs_are_limited_by_number) {
  EXPECT_EQ(admitted(PackFill(3, 0), std::vector(9, job(1 << 20))), 3u);
}

TEST(PackFillTest, jobs_are_limited_by_tokens_of_which_the_lowest_limit_counts) {
  EXPECT_EQ(admitted(PackFill(99, 0), std::vector(99, job(1024, 8192))), 8u);
  EXPECT_EQ(admitted(PackFill(99, 0), {job(1024, 8192), job(1024, 4096), job(1024, 8192), job(1024), job(1024)}),
            4u);
  EXPECT_EQ(admitted(PackFill(99, 0), {job(1024), job(7168, 8192), job(1, 8192)}), 2u);
}

TEST(PackFillTest, nine_tenths_of_the_memory_are_filled_and_the_base_counts_once) {
  EXPECT_EQ(admitted(PackFill(99, 1000), std::vector(99, job(1, 0, 500, 100))), 4u) << "500 + 4 × 100 of 900";
  EXPECT_EQ(admitted(PackFill(99, 0), std::vector(99, job(1, 0, 500, 100))), 99u) << "memory is not known";
  PackFill fill(99, 1000);
  fill.add(job(1, 0, 500, 100));
  fill.add(job(1, 0, 600, 50));
  EXPECT_EQ(fill.memory_mb(), 750);
}

TEST(PackFillTest, the_nearest_limit_says_how_full_it_is) {
  const auto fullness = [](PackFill fill, const std::vector<PackTraits>& jobs) {
    for (const PackTraits& job : jobs) fill.add(job);
    return fill.fullness();
  };
  EXPECT_EQ(fullness(PackFill(8, 0), {}), 0);
  EXPECT_EQ(fullness(PackFill(8, 0), std::vector(2, job(1024))), 0.25) << "by number";
  EXPECT_EQ(fullness(PackFill(8, 0), std::vector(2, job(1024, 4096))), 0.5) << "by tokens";
  EXPECT_EQ(fullness(PackFill(99, 1000), std::vector(3, job(1, 0, 500, 100))), 0.75) << "3 × 100 of 900 - 500 MB";
  EXPECT_EQ(fullness(PackFill(99, 1000), {job(1, 0, 900, 1)}), 1);
  EXPECT_EQ(fullness(PackFill(2, 0), {job(8192, 4096)}), 1);
}

}  // namespace
}  // namespace finesweep
