#pragma once

#include <string>

#include "reports/analysis.h"

namespace finesweep::reports {

/// report.json: all that the other reports say, for programs.
///
///   {"version": 1, "sweep": name, "swept_paths": […], "report": {select, metric, goal, baseline},
///    "marks": {"quality": metric, "memory": metric, "time": metric}, "best": configuration or null,
///    "warnings": […], "environment": {key: {value: jobs}},
///    "trials": [{trial, label, configuration, repeat, seed, state, swept: {path: value}, metrics: {…}, error}],
///    "configurations": [{configuration, label, swept, trials: […], n, pareto, best_for: […],
///                        metrics: {name: {n, mean, std, ci95: [low, high]}},
///                        difference: the same of report.metric against the baseline, or null}]}
///
/// std and ci95 are null where there is one value.
std::string json_report(const Analysis& analysis);

}  // namespace finesweep::reports
