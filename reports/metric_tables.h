#pragma once

#include <string>
#include <utility>
#include <vector>

#include "reports/analysis.h"

namespace finesweep::reports {

/// The metrics of each step that have a column of their own: deviations stand beside their means.
std::vector<std::pair<std::string, std::vector<std::string>>> metrics_by_step(const Analysis& analysis);

/// The trials that failed or were cancelled, with the label of their configuration.
std::vector<std::pair<const TrialResult*, std::string>> failures_of(const Analysis& analysis);

/// key → "cpu (3 jobs), cuda (2 jobs)"; without counts where all are alike.
std::vector<std::pair<std::string, std::string>> environment_lines(const Analysis& analysis);

}  // namespace finesweep::reports
