#pragma once

#include <c10/core/Device.h>

#include <string>
#include <utility>

#include "jobs/settings.h"
#include "worker/executor.h"

namespace finesweep::worker {

// One function for each kind of job. They may throw what libraries throw: execute() turns it into an Outcome.

Outcome finetune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control);
Outcome evaluate(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control);

/// Outcome::environment: the device, libraries, threads.
Json job_environment(const ExecutionRequest& request);

/// Trying again cannot help.
inline Outcome failed_for_good(std::string message) {
  Outcome outcome;
  outcome.error = std::move(message);
  outcome.permanent = true;
  return outcome;
}

/// A full disk, a lack of memory: another attempt may do better.
inline Outcome failed_this_time(std::string message) {
  Outcome outcome;
  outcome.error = std::move(message);
  return outcome;
}

}  // namespace finesweep::worker
