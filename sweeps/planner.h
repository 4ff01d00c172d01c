#pragma once

#include <cstddef>

#include "jobs/plan.h"
#include "sweeps/data_info.h"
#include "sweeps/diagnostics.h"
#include "sweeps/model_info.h"
#include "sweeps/pipeline.h"

namespace finesweep::sweeps {

/// Expands a declaration into trials and the jobs that they share. What cannot run goes to `diagnostics`; the plan
/// means something only where there are no errors.
Plan make_plan(const SweepDeclaration& declaration, ModelCatalog& models, DataCatalog& data,
               std::size_t most_trials, Diagnostics& diagnostics);

/// report: with its defaults, checked against what the pipeline yields ("validation.accuracy" → split, or empty).
ReportSettings report_settings(const SweepDeclaration& declaration,
                               const std::vector<std::pair<std::string, std::string>>& yields, Task task,
                               Diagnostics& diagnostics);

/// Whether a smaller value of the metric ("test.loss") is the better one.
Goal natural_goal(std::string_view metric);

}  // namespace finesweep::sweeps
