#include "worker/engine/profile_artifact.h"

#include "storage/artifact.h"
#include "worker/engine/steps.h"

namespace finesweep::worker {

Status keep_profile(const ExecutionRequest& request, const Profiler& profiler, Outcome& outcome) {
  const std::filesystem::path folder = request.staging / "artifact";
  if (Status written = profiler.write(folder); !written) return written;
  outcome.has_artifact = true;
  if (outcome.environment.empty()) outcome.environment = job_environment(request);
  storage::Manifest manifest;
  manifest.job = request.job.id;
  manifest.attempt = request.attempt;
  manifest.kind = request.job.kind;
  manifest.outcome = outcome;
  return storage::seal_artifact(folder, manifest);
}

}  // namespace finesweep::worker
