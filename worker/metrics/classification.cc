#include "worker/metrics/classification.h"

#include <cmath>
#include <cstddef>
#include <map>

namespace finesweep::worker {
namespace {

struct Counts {
  std::int64_t hits = 0, labelled = 0, predicted = 0;
  double f1() const {
    return hits == 0 ? 0 : 2.0 * static_cast<double>(hits) / static_cast<double>(labelled + predicted);
  }
};

std::map<std::int64_t, Counts> count(std::span<const std::int64_t> labels,
                                     std::span<const std::int64_t> predictions) {
  std::map<std::int64_t, Counts> counts;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    ++counts[labels[i]].labelled;
    ++counts[predictions[i]].predicted;
    if (labels[i] == predictions[i]) ++counts[labels[i]].hits;
  }
  return counts;
}

}  // namespace

double accuracy(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  std::int64_t hits = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) hits += labels[i] == predictions[i];
  return labels.empty() ? 0 : static_cast<double>(hits) / static_cast<double>(labels.size());
}

double f1_binary(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  return count(labels, predictions)[1].f1();
}

double f1_macro(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  const auto counts = count(labels, predictions);
  double sum = 0;
  for (const auto& [label, of_label] : counts) sum += of_label.f1();
  return counts.empty() ? 0 : sum / static_cast<double>(counts.size());
}

double f1_micro(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  Counts all;
  for (const auto& [label, of_label] : count(labels, predictions)) {
    all.hits += of_label.hits;
    all.labelled += of_label.labelled;
    all.predicted += of_label.predicted;
  }
  return all.f1();
}

double f1_weighted(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  double sum = 0;
  for (const auto& [label, of_label] : count(labels, predictions)) {
    sum += static_cast<double>(of_label.labelled) * of_label.f1();
  }
  return labels.empty() ? 0 : sum / static_cast<double>(labels.size());
}

double matthews_correlation(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions) {
  // Products of row counts: doubles hold them where 64-bit integers may not.
  double hits = 0, both = 0, of_labels = 0, of_predictions = 0;
  for (const auto& [label, of_label] : count(labels, predictions)) {
    const auto labelled = static_cast<double>(of_label.labelled),
               predicted = static_cast<double>(of_label.predicted);
    hits += static_cast<double>(of_label.hits);
    both += labelled * predicted;
    of_labels += labelled * labelled;
    of_predictions += predicted * predicted;
  }
  const auto rows = static_cast<double>(labels.size());
  const double spread = (rows * rows - of_labels) * (rows * rows - of_predictions);
  return spread == 0 ? 0 : (hits * rows - both) / std::sqrt(spread);
}

double f1(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions, std::int64_t classes) {
  return classes == 2 ? f1_binary(labels, predictions) : f1_macro(labels, predictions);
}

}  // namespace finesweep::worker
