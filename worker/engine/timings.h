#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace finesweep::worker {

/// The value below which a share of the values lies: between the two nearest in rank by linear interpolation, at
/// position share · (count - 1) of the sorted values, as numpy.percentile does by default. Needs a value.
double percentile(std::vector<double> values, double share);

/// What calls of equal work took.
struct Timings {
  std::vector<double> seconds;  // of each call
  std::int64_t rows = 0;        // of each call
  std::int64_t tokens = 0;      // of all calls together

  /// "<mode>_ms_mean", "_ms_std", "_ms_p50", "_ms_p99", "<mode>_samples_per_second_mean", "_std" and
  /// "<mode>_tokens_per_second" (all tokens by all seconds). One call has no deviation.
  std::map<std::string, double> metrics(const std::string& mode) const;
};

}  // namespace finesweep::worker
