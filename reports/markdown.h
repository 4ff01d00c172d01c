#pragma once

#include <string>

#include "reports/analysis.h"

namespace finesweep::reports {

/// report.md: reads well alone.
std::string markdown_report(const Analysis& analysis);

}  // namespace finesweep::reports
