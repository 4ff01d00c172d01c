#include "reports/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace finesweep::reports {
namespace {

struct Expected {
  std::vector<double> values;
  double mean, deviation, low, high;
};

TEST(Statistics, mean_deviation_and_interval_are_those_of_scipy) {
  // numpy's mean and std(ddof=1), scipy 1.17's stats.t.interval(0.95, n - 1, mean, std / sqrt(n)).
  const Expected expected[] = {
      {{0.7125, 0.7325}, 0.7225, 0.014142135623730963, 0.5954379526382529, 0.8495620473617471},
      {{0.81, 0.83, 0.79}, 0.81, 0.019999999999999962, 0.7603172457649936, 0.8596827542350065},
      {{12.5, 13.25, 11.75, 14.0, 12.0}, 12.7, 0.9253377761660874, 11.551041397156636, 13.848958602843362},
      {{1e6, 1e6 + 1, 1e6 + 2, 1e6 + 4}, 1000001.75, 1.707825127659933, 999999.0324691162, 1000004.4675308838},
  };
  for (const Expected& e : expected) {
    const Sample sample = summarize(e.values);
    EXPECT_EQ(sample.n, static_cast<int>(e.values.size()));
    EXPECT_NEAR(sample.mean, e.mean, 1e-13 * e.mean);
    ASSERT_TRUE(sample.deviation && sample.ci95);
    EXPECT_NEAR(*sample.deviation, e.deviation, 1e-12);
    EXPECT_NEAR(sample.ci95->low, e.low, 1e-12 * e.mean);
    EXPECT_NEAR(sample.ci95->high, e.high, 1e-12 * e.mean);
  }
}

TEST(Statistics, two_values_give_the_interval_that_the_cauchy_distribution_has) {
  // With one degree of freedom, t is tan(pi * 0.475), and the half width is t * |a - b| / 2.
  const Sample sample = summarize(std::vector{1.0, 3.0});
  EXPECT_NEAR(sample.ci95->high, 2 + std::tan(std::numbers::pi * 0.475), 1e-9);
}

TEST(Statistics, one_value_has_neither_deviation_nor_interval) {
  const Sample sample = summarize(std::vector{0.5});
  EXPECT_EQ(sample.n, 1);
  EXPECT_EQ(sample.mean, 0.5);
  EXPECT_FALSE(sample.deviation.has_value());
  EXPECT_FALSE(sample.ci95.has_value());
  EXPECT_EQ(summarize({}).n, 0);
}

TEST(Statistics, equal_values_have_deviation_zero) {
  const Sample sample = summarize(std::vector{0.25, 0.25, 0.25});
  EXPECT_EQ(*sample.deviation, 0);
  EXPECT_EQ(sample.ci95->low, 0.25);
  EXPECT_EQ(sample.ci95->high, 0.25);
}

}  // namespace
}  // namespace finesweep::reports
