#pragma once

#include <string>

#include "reports/analysis.h"

namespace finesweep::reports {

// CSV by RFC 4180: CRLF is not used, since every reader takes a newline; cells with a comma, a quote or a line
// break are quoted. Numbers are exact; what there is no value of is an empty cell.

/// trial, label, repeat, seed, state, the swept paths, every metric as step.metric, error; one row per trial.
std::string results_csv(const Analysis& analysis);

/// label, the swept paths, n, and for every metric _mean, _std, _ci95_low, _ci95_high; one row per configuration.
std::string summary_csv(const Analysis& analysis);

/// trial, step, epoch, global_step, metric, value; one row per point of a curve.
std::string history_csv(const Analysis& analysis);

}  // namespace finesweep::reports
