#include "worker/metrics/classification.h"

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

double f1(std::span<const std::int64_t> labels, std::span<const std::int64_t> predictions, std::int64_t classes) {
  return classes == 2 ? f1_binary(labels, predictions) : f1_macro(labels, predictions);
}

}  // namespace finesweep::worker
