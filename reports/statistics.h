#pragma once

#include <optional>
#include <span>

namespace finesweep::reports {

struct Interval {
  double low = 0;
  double high = 0;
};

/// What a few values say about their mean.
struct Sample {
  int n = 0;  // values; 0: the rest means nothing
  double mean = 0;
  /// Of the sample (n - 1 in the denominator); from two values on.
  std::optional<double> deviation;
  /// 95 %, by Student's t with n - 1 degrees of freedom; from two values on.
  std::optional<Interval> ci95;
};

Sample summarize(std::span<const double> values);

}  // namespace finesweep::reports
