#pragma once

#include <string>
#include <vector>

#include "sweeps/data_info.h"
#include "sweeps/model_info.h"
#include "sweeps/pipeline.h"
#include "sweeps/resolve.h"

namespace finesweep::sweeps {

/// Reports what cannot run in a configuration whose words are all valid: a rank above a layer's width, a split that
/// a step needs and the data lacks, a model that cannot do the task, …
void check_configuration(const SweepDeclaration& declaration, const Given& given, const Resolved& resolved,
                         ModelCatalog& models, DataCatalog& data, Diagnostics& diagnostics);

/// Names of the metrics that a step of a configuration yields, without the step's name.
std::vector<std::string> metrics_of(const ResolvedStep& step);

/// Splits that a step reads: train, validation, test.
std::vector<std::string> splits_of(const ResolvedStep& step, const Json& data);

}  // namespace finesweep::sweeps
