#include "worker/engine/timings.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "worker/metrics/statistics.h"

namespace finesweep::worker {

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double position = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}

std::map<std::string, double> Timings::metrics(const std::string& mode) const {
  RunningStatistics ms, samples;
  std::vector<double> sorted_ms;
  for (const double value : seconds) {
    ms.add(1000 * value);
    samples.add(static_cast<double>(rows) / value);
    sorted_ms.push_back(1000 * value);
  }
  std::map<std::string, double> metrics{
      {mode + "_ms_mean", ms.mean},
      {mode + "_ms_p50", percentile(sorted_ms, 0.5)},
      {mode + "_ms_p99", percentile(sorted_ms, 0.99)},
      {mode + "_samples_per_second_mean", samples.mean},
      {mode + "_tokens_per_second",
       static_cast<double>(tokens) / std::accumulate(seconds.begin(), seconds.end(), 0.0)}};
  if (ms.count > 1) {
    metrics[mode + "_ms_std"] = ms.standard_deviation();
    metrics[mode + "_samples_per_second_std"] = samples.standard_deviation();
  }
  return metrics;
}

}  // namespace finesweep::worker
