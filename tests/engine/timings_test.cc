#include "worker/engine/timings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace finesweep::worker {
namespace {

using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;

TEST(Timings, percentiles_lie_between_the_nearest_ranks_as_numpy_has_them) {
  // numpy.percentile([4, 1, 3, 2], [0, 25, 50, 99, 100])
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 0), 1);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 0.25), 1.75);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 0.99), 3.97);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 1), 4);
  EXPECT_DOUBLE_EQ(percentile({7}, 0.99), 7);
}

TEST(Timings, metrics_are_those_of_the_calls) {
  const Timings timings{{0.1, 0.2, 0.3}, 4, 60};
  const auto metrics = timings.metrics("train");
  EXPECT_DOUBLE_EQ(metrics.at("train_ms_mean"), 200);
  EXPECT_DOUBLE_EQ(metrics.at("train_ms_std"), 100);
  EXPECT_DOUBLE_EQ(metrics.at("train_ms_p50"), 200);
  EXPECT_DOUBLE_EQ(metrics.at("train_ms_p99"), 298);
  EXPECT_NEAR(metrics.at("train_samples_per_second_mean"), (40 + 20 + 40.0 / 3) / 3, 1e-9);
  EXPECT_NEAR(metrics.at("train_samples_per_second_std"), 13.8777, 1e-3);
  EXPECT_DOUBLE_EQ(metrics.at("train_tokens_per_second"), 100);
}

TEST(Timings, one_call_has_no_deviation) {
  const auto metrics = Timings{{0.5}, 1, 10}.metrics("forward");
  EXPECT_THAT(metrics, Contains(Key("forward_ms_p99")));
  EXPECT_THAT(metrics, Not(Contains(Key("forward_ms_std"))));
  EXPECT_THAT(metrics, Not(Contains(Key("forward_samples_per_second_std"))));
}

}  // namespace
}  // namespace finesweep::worker
