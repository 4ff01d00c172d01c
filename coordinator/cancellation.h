#pragma once

#include <functional>
#include <string>
#include <vector>

#include "coordinator/reactor.h"
#include "jobs/json.h"
#include "jobs/plan.h"

namespace finesweep::coordinator {

/// What a request to cancel trials means for the jobs of a sweep.
struct Cancellation {
  std::vector<JobId> jobs;
  /// For the one who asked; lists of {"trial", "label"}, with "state" or "message" more:
  ///   cancelled   trials that end by it
  ///   over        trials that had ended before (state: succeeded, failed, cancelled)
  ///   shared      trials that go on, since trials that were not named need every job that is left of them
  ///   unknown     what names no trial, or several (message)
  Json answer;
};

/// `wanted`: trials by name, the beginning of one, or label, which means all repeats; empty: all. Cancelled are the
/// jobs that are not over and that no other trial needs which still goes on.
Cancellation plan_cancellation(const Plan& plan, const std::vector<std::string>& wanted,
                               const std::function<JobPhase(const JobId&)>& phase_of);

}  // namespace finesweep::coordinator
