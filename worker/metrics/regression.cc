#include "worker/metrics/regression.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace finesweep::worker {
namespace {

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return ranks;
}

}  // namespace

double mean_squared_error(std::span<const double> labels, std::span<const double> predictions) {
  double sum = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    sum += (labels[i] - predictions[i]) * (labels[i] - predictions[i]);
  }
  return labels.empty() ? 0 : sum / static_cast<double>(labels.size());
}

double pearson_correlation(std::span<const double> labels, std::span<const double> predictions) {
  const auto is_constant = [](std::span<const double> values) {
    return std::all_of(values.begin(), values.end(), [&](double value) { return value == values[0]; });
  };
  if (labels.size() < 2 || is_constant(labels) || is_constant(predictions)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double label_mean = mean(labels), prediction_mean = mean(predictions);
  double both = 0, of_labels = 0, of_predictions = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double label = labels[i] - label_mean, prediction = predictions[i] - prediction_mean;
    both += label * prediction;
    of_labels += label * label;
    of_predictions += prediction * prediction;
  }
  return std::clamp(both / (std::sqrt(of_labels) * std::sqrt(of_predictions)), -1.0, 1.0);
}

double spearman_correlation(std::span<const double> labels, std::span<const double> predictions) {
  return pearson_correlation(ranks(labels), ranks(predictions));
}

}  // namespace finesweep::worker
