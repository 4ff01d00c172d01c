#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/engine/job_model.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// The manifest of what a training made of `source`: the model with its adapter and head.
ModelManifest describe_model(const JobModel& made, const ModelSource& source, const HeadChoice& head,
                             const JobContext& context, const std::string& method);
std::string method_name(Method method);

/// The manifest of what another step made of `source`, as far as the step has changed nothing.
ModelManifest describe_source(const ModelSource& source, const JobContext& context, const std::string& family);

/// Writes the adapter, or else the whole model with what makes its folder a Hugging Face directory, and the masks
/// of what is pruned, into the attempt's artifact folder, and seals it there. What lies in that folder already is
/// sealed too.
Status write_model_artifact(const ExecutionRequest& request, const JobModel& made, const ModelSource& source,
                            const ModelManifest& description, const Outcome& outcome);

/// The same later, and on any thread: of an adapter copies are taken now, so that its device is not needed any
/// more; the rest must stay as it is until then. The first three must outlive what is returned.
std::function<Status()> model_artifact_writer(const ExecutionRequest& request, const JobModel& made,
                                              const ModelSource& source, ModelManifest description,
                                              Outcome outcome);

/// Seals what lies in the attempt's artifact folder.
Status seal_model_artifact(const ExecutionRequest& request, const ModelManifest& description,
                           const Outcome& outcome);

/// The adapter of `source` as it is.
Status copy_adapter(const ModelSource& source, const std::filesystem::path& artifact);

}  // namespace finesweep::worker
