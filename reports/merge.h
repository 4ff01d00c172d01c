#pragma once

#include <string>
#include <vector>

#include "reports/run_data.h"

namespace finesweep::reports {

struct NamedRun {
  std::string name;  // unique among those that are merged
  RunData data;
};

struct MergeOptions {
  /// "test.accuracy": what is shown and, unless all sweeps choose by one, chooses; empty: as the sweeps say.
  std::string metric;
};

/// Several sweeps as one, for one table over all: trials are named "sweep/1a2b3c4d.0", the sweep is the first swept
/// path, and nothing is shared between sweeps, since the same job measured twice is two measurements. Differences
/// are to the baseline of the first sweep that has one, and pair trials of one seed: only sweeps with the same
/// `sweep.seed` have any. Where sweeps show different metrics, the first that most of them have is taken, and a
/// remark says so. An Error where `options.metric` is in none of them.
Result<RunData> merge_runs(std::vector<NamedRun> runs, const MergeOptions& options = {});

}  // namespace finesweep::reports
