#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"

namespace finesweep {

/// One point of a curve: `history.csv` has a row for each.
struct HistoryPoint {
  double epoch = 0;              // 1.0 when the first epoch is complete
  std::int64_t global_step = 0;  // optimiser steps done
  std::string metric;
  double value = 0;
};

/// How an attempt ended. Persisted and sent by name.
enum class OutcomeKind {
  succeeded,
  failed,       // the job's own failure: charged against its retries, unless `permanent`
  interrupted,  // stopped on request after writing a checkpoint: charged to nobody
};

/// What an attempt brings back. Metrics carry no step name: `accuracy`, not `test.accuracy`; the trial that uses
/// the job adds its step's name. All numbers are finite.
struct Outcome {
  OutcomeKind kind = OutcomeKind::failed;
  std::map<std::string, double> metrics;
  std::vector<HistoryPoint> history;
  /// Files stand in the attempt's staging folder and are to be published.
  bool has_artifact = false;
  /// Device, library versions and the like: for the report, never for comparison.
  Json environment = Json::object();

  /// Why it failed: what, where, what to do. Holds no pid, host, path of a run directory, or attempt number.
  std::string error;
  /// Trying again cannot help (a broken row, a missing file, a loss that is not a number).
  bool permanent = false;
};

void to_json(Json& json, const HistoryPoint& point);
void from_json(const Json& json, HistoryPoint& point);
void to_json(Json& json, const Outcome& outcome);
void from_json(const Json& json, Outcome& outcome);
std::string_view outcome_kind_name(OutcomeKind kind);

/// How far an attempt has come. `done` rises while the attempt makes progress, and only then.
struct Progress {
  static constexpr double no_loss = std::numeric_limits<double>::quiet_NaN();

  std::int64_t done = 0;
  std::int64_t total = 0;  // 0: not yet known
  /// "training", "evaluating", …
  std::string phase;
  /// Of the last step; no_loss where there is none.
  double loss = 0;
};

void to_json(Json& json, const Progress& progress);
void from_json(const Json& json, Progress& progress);

}  // namespace finesweep
