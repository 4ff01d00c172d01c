#pragma once

#include <filesystem>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/engine/job_model.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// The manifest of what a job made of `source`: the model with its adapter and head.
ModelManifest describe_model(const JobModel& made, const ModelSource& source, const HeadChoice& head,
                             const JobContext& context, Method method);

/// Writes the adapter, or else the whole model with what makes its folder a Hugging Face directory, into the
/// attempt's artifact folder, and seals it there with `outcome`. What lies in that folder already is sealed too.
Status write_model_artifact(const ExecutionRequest& request, const JobModel& made, const ModelSource& source,
                            const ModelManifest& description, const Outcome& outcome);

}  // namespace finesweep::worker
