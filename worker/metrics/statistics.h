#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <span>

namespace finesweep::worker {

/// Mean of at least one value.
inline double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// Standard deviation of a sample (divided by n - 1); nothing of fewer than two values.
inline std::optional<double> standard_deviation(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  const double centre = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - centre) * (value - centre);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

}  // namespace finesweep::worker
