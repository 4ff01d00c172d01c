#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <string>
#include <utility>

#include "jobs/settings.h"
#include "worker/engine/job_model.h"
#include "worker/engine/task_data.h"
#include "worker/executor.h"

namespace finesweep::worker {

// One function for each kind of job. They may throw what libraries throw: execute() turns it into an Outcome.

Outcome finetune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control);
Outcome evaluate(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control);
Outcome benchmark(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                  ExecutionControl& control);
Outcome distill(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                ExecutionControl& control);
Outcome prune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
              ExecutionControl& control);
Outcome quantize(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control);
/// Puts the adapter into its base.
Outcome merge_step(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                   ExecutionControl& control);

/// What evaluate() does, over any model: request.job's inputs are not looked at.
Outcome evaluate_model(const ExecutionRequest& request, const JobContext& context, const ModelSource& source,
                       c10::Device device, ExecutionControl& control,
                       const std::function<void(const Prediction&)>& on_prediction);

/// Runs `work` on a device with so many threads; what it throws becomes a failed Outcome. Full paths stand in
/// errors.
Outcome guarded(const std::string& device, int threads, const std::function<Outcome(c10::Device)>& work);

/// What of the exception that is being handled becomes a job's outcome.
struct Thrown {
  Outcome outcome;
  bool out_of_memory = false;
};
Thrown describe_exception();

/// What execute() makes of a job's outcome: says in the log why it failed, and leaves out of that what differs from
/// run to run.
Outcome reported(const ExecutionRequest& request, Outcome outcome);

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
