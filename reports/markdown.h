#pragma once

#include <string>

#include "reports/analysis.h"
#include "reports/charts.h"
#include "reports/plot_files.h"

namespace finesweep::reports {

/// report.md: reads well alone. `plots` says which of the charts lie in plots/.
std::string markdown_report(const Analysis& analysis, const Charts& charts = {}, const PlotFiles& plots = {});

/// The head of report.md: the sweep, its warnings, the comparison.
std::string markdown_comparison(const Analysis& analysis);

}  // namespace finesweep::reports
