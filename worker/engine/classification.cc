#include "worker/engine/classification.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "worker/metrics/classification.h"

namespace finesweep::worker {
namespace {

/// -log softmax(logits)[label].
double cross_entropy(const float* logits, std::int64_t classes, std::int64_t label) {
  const double greatest = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(logits[i] - greatest);
  return greatest + std::log(sum) - logits[label];
}

}  // namespace

std::int64_t batches_of(const ClassificationDataset& data, const EvaluateSettings& settings) {
  return (data.rows() + settings.batch_size - 1) / settings.batch_size;
}

Result<std::optional<std::map<std::string, double>>> evaluate_classifier(Model& model,
                                                                         const ClassificationDataset& data,
                                                                         const Labels& labels,
                                                                         const EvaluateSettings& settings,
                                                                         const BeforeBatch& before_batch) {
  for (const auto& metric : settings.metrics) {
    if (metric == "loss" || (!labels.is_regression() && (metric == "accuracy" || metric == "f1"))) continue;
    return Error{
        "evaluate.metrics: '" + metric + "' is no metric of a " +
        (labels.is_regression() ? "regression; it has: loss." : "classification; it has: loss, accuracy, f1.")};
  }
  const at::NoGradGuard no_graph;
  std::vector<std::int64_t> expected, predicted;
  double loss = 0;
  for (std::int64_t first = 0; first < data.rows(); first += settings.batch_size) {
    if (!before_batch()) return std::optional<std::map<std::string, double>>();
    std::vector<std::int64_t> rows(static_cast<std::size_t>(std::min(settings.batch_size, data.rows() - first)));
    std::iota(rows.begin(), rows.end(), first);
    const Batch batch = data.batch(rows);
    if (auto fits = model.check(batch); !fits) return fits.error();
    const at::Tensor logits = model.logits(batch, Pass()).value.to(at::kCPU, at::kFloat).contiguous();
    const std::int64_t classes = logits.size(1);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float* row = logits.const_data_ptr<float>() + static_cast<std::int64_t>(i) * classes;
      const double label = data.label(rows[i]);
      if (labels.is_regression()) {
        loss += (row[0] - label) * (row[0] - label);
        continue;
      }
      loss += cross_entropy(row, classes, static_cast<std::int64_t>(label));
      expected.push_back(static_cast<std::int64_t>(label));
      predicted.push_back(std::max_element(row, row + classes) - row);
    }
  }
  loss /= static_cast<double>(data.rows());
  if (!std::isfinite(loss)) {
    return Error{
        "The loss on the " + settings.split +
        " split is not a finite number: the model has diverged. Train it with a lower learning rate, or in "
        "fp32."};
  }
  std::map<std::string, double> metrics{{"loss", loss}};
  const auto wanted = [&](const char* name) {
    return !labels.is_regression() &&
           (settings.metrics.empty() ||
            std::find(settings.metrics.begin(), settings.metrics.end(), name) != settings.metrics.end());
  };
  if (wanted("accuracy")) metrics["accuracy"] = accuracy(expected, predicted);
  if (wanted("f1")) metrics["f1"] = f1(expected, predicted, labels.count());
  return std::optional(std::move(metrics));
}

}  // namespace finesweep::worker
