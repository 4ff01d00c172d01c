#pragma once

#include "jobs/outcome.h"
#include "jobs/result.h"
#include "worker/engine/profile.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// Writes the profile of a job that leaves nothing else into the attempt's artifact folder and seals it there with
/// `outcome`, which has an artifact from here on.
Status keep_profile(const ExecutionRequest& request, const Profiler& profiler, Outcome& outcome);

}  // namespace finesweep::worker
