#pragma once

#include <unordered_map>

#include "jobs/plan.h"
#include "jobs/result.h"
#include "storage/store.h"

namespace finesweep::reports {

/// All that a report is made from.
struct RunData {
  Plan plan;
  /// What is known of the plan's jobs; one that is missing here is pending.
  std::unordered_map<JobId, storage::StoredJob> jobs;
};

Result<RunData> read_run_data(const storage::Store& store);

}  // namespace finesweep::reports
