#pragma once

#include <map>

#include "coordinator/reactor.h"
#include "jobs/plan.h"
#include "storage/run_directory.h"
#include "storage/store.h"

namespace finesweep::coordinator {

/// Where the jobs of a plan stand at the beginning of a coordinator's life, by what earlier lives recorded and left
/// on the disk. Records what follows from it: an artifact that was published but not committed when the coordinator
/// died is adopted; a job whose artifact somebody removed runs again where a job that is still to run needs it;
/// with `retry_failed`, failed and cancelled jobs begin anew. What is left in staging of jobs that succeeded is
/// removed.
Result<std::map<JobId, JobHistory>> resume(storage::Store& store, const storage::RunDirectory& run,
                                           const Plan& plan, bool retry_failed);

}  // namespace finesweep::coordinator
