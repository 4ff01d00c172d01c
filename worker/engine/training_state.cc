#include "worker/engine/training_state.h"

#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "storage/artifact.h"
#include "storage/checkpoint.h"
#include "worker/engine/job_model.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

constexpr const char* state_file = "training.safetensors";

Status restore_from(const fs::path& folder, const Json& state, Training& training, TrainingProgress& progress) {
  auto restored = training_progress_from_json(state);
  if (!restored) return restored.error();
  if (restored->steps > training.total_steps()) {
    return Error{"The training state has " + std::to_string(restored->steps) + " steps, more than the " +
                 std::to_string(training.total_steps()) + " of this training."};
  }
  const auto file = SafetensorsFile::open(folder / state_file);
  if (!file) return file.error();
  std::map<std::string, at::Tensor> tensors;
  for (const auto& name : file->names()) {
    auto tensor = file->tensor(name);
    if (!tensor) return tensor.error();
    tensors.emplace(name, std::move(*tensor));
  }
  if (Status done = training.restore(tensors); !done) return done;
  progress = std::move(*restored);
  return {};
}

}  // namespace

Status restore_training(const ExecutionRequest& request, Training& training, TrainingProgress& progress) {
  std::vector<std::string> rejected;
  const auto checkpoint = storage::newest_valid_checkpoint(request.earlier_checkpoints, &rejected);
  for (const auto& line : rejected) std::fprintf(stderr, "checkpoint passed over: %s\n", line.c_str());
  if (checkpoint) {
    const Status restored = restore_from(checkpoint->folder, checkpoint->state, training, progress);
    if (restored) return restored;
    // Of another version of finesweep, say: what it saved is lost, the job is not.
    std::fprintf(stderr, "checkpoint passed over: %s\n", restored.error().message.c_str());
  }
  if (!request.job.continues) return {};
  const auto artifact = request.artifacts.find(*request.job.continues);
  if (artifact == request.artifacts.end()) return Error{"The artifact of the job to continue was not handed over."};
  const auto manifest = storage::read_manifest(artifact->second);
  if (!manifest) return manifest.error();
  const auto described = ModelManifest::from_json(manifest->model);
  if (!described) return described.error();
  // It ran before the chain was planned, and kept no state: this job trains from the start, to the same result.
  if (described->training.is_null()) return {};
  return restore_from(artifact->second / "training", described->training, training, progress);
}

Status write_training_checkpoint(const ExecutionRequest& request, const Training& training,
                                 const TrainingProgress& progress) {
  return storage::write_checkpoint(
      request.staging / "checkpoints", progress.steps, to_json(progress),
      [&](const fs::path& folder) { return write_safetensors(folder / state_file, training.state()); });
}

Status write_training_tensors(const std::vector<std::pair<std::string, at::Tensor>>& state,
                              const fs::path& folder) {
  fs::create_directories(folder);
  return write_safetensors(folder / state_file, state);
}

}  // namespace finesweep::worker
