#include "reports/statistics.h"

#include <boost/math/distributions/students_t.hpp>
#include <cmath>

namespace finesweep::reports {

Sample summarize(std::span<const double> values) {
  Sample sample;
  sample.n = static_cast<int>(values.size());
  if (values.empty()) return sample;
  double sum = 0;
  for (const double value : values) sum += value;
  sample.mean = sum / sample.n;
  if (values.size() < 2) return sample;
  double squares = 0;
  for (const double value : values) squares += (value - sample.mean) * (value - sample.mean);
  sample.deviation = std::sqrt(squares / (sample.n - 1));
  const boost::math::students_t distribution(sample.n - 1);
  const double t = boost::math::quantile(boost::math::complement(distribution, 0.025));
  const double half = t * *sample.deviation / std::sqrt(static_cast<double>(sample.n));
  sample.ci95 = Interval{sample.mean - half, sample.mean + half};
  return sample;
}

}  // namespace finesweep::reports
