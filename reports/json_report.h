#pragma once

#include <string>

#include "reports/analysis.h"

namespace finesweep::reports {

/// report.json: all that the other reports say, for programs.
///
///   {"version": 1, "sweep": name, "sweeps": [names, where several are compared], "swept_paths": […],
///    "report": {select, metric, goal, baseline, selects_on_test},
///    "marks": {"quality": metric, "memory": metric, "time": metric}, "best": configuration or null,
///    "warnings": […], "environment": {key: {value: jobs}},
///    "trials": [{trial, label, configuration, repeat, seed, state, swept: {path: value}, metrics: {…}, error,
///                packs?: {step that ran in a pack: of how many jobs}, steps: [{step, kind, job}]}],
///    "configurations": [{configuration, label, swept, trials: […], n, pareto, best_for: […],
///                        packed_steps?: [those of which a trial ran in a pack],
///                        metrics: {name: {n, mean, std, ci95: [low, high]}},
///                        difference: the same of report.metric against the baseline, or null}],
///    "jobs": {id: {state, error, metrics, history: [{epoch, global_step, metric, value}], environment}},
///    "profiles": {job: [{mode, iterations, groups: [{group, ms, share, calls}]}]}}
///
/// std and ci95 are null where there is one value.
std::string json_report(const Analysis& analysis);

/// The data that a report.json was made from, as far as reports need it. The Error says what is wrong with the
/// text.
Result<RunData> parse_json_report(const std::string& text);

}  // namespace finesweep::reports
