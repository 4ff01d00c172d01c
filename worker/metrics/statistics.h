#pragma once

#include <cmath>
#include <cstdint>

namespace finesweep::worker {

/// Mean and standard deviation of a sample as it comes in (Welford 1962). Plain data, so that a checkpoint can hold
/// it.
struct RunningStatistics {
  std::int64_t count = 0;
  double mean = 0;
  double squares = 0;  // sum of squared differences from the mean

  void add(double value) {
    ++count;
    const double difference = value - mean;
    mean += difference / static_cast<double>(count);
    squares += difference * (value - mean);
  }
  /// Divided by count - 1; call with at least two values.
  double standard_deviation() const { return std::sqrt(squares / static_cast<double>(count - 1)); }
};

}  // namespace finesweep::worker
