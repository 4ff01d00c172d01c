#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "jobs/settings.h"
#include "worker/data/dataset.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// Called before each batch; false stops the evaluation.
using BeforeBatch = std::function<bool()>;

/// "loss", "accuracy" and "f1" (a regression: "loss"), those asked for in settings.metrics; "loss" always. Loss is
/// the mean over the rows, in double precision. Nothing where it was stopped.
///
/// The Error: a batch that does not fit the model, a loss that is not a finite number, a metric of another task.
Result<std::optional<std::map<std::string, double>>> evaluate_classifier(Model& model,
                                                                         const ClassificationDataset& data,
                                                                         const Labels& labels,
                                                                         const EvaluateSettings& settings,
                                                                         const BeforeBatch& before_batch);

std::int64_t batches_of(const ClassificationDataset& data, const EvaluateSettings& settings);

}  // namespace finesweep::worker
