#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/engine/training_progress.h"
#include "worker/executor.h"
#include "worker/training/training.h"

namespace finesweep::worker {

// Where a training stands, as files: the training's tensors beside the TrainingProgress.

/// Continues from the newest valid checkpoint of an earlier attempt, else from what the job before in the chain
/// left; where there is neither, nothing changes. A checkpoint that does not fit is passed over, with a line in the
/// log.
Status restore_training(const ExecutionRequest& request, Training& training, TrainingProgress& progress);

/// Writes a checkpoint into the attempt's staging folder.
Status write_training_checkpoint(const ExecutionRequest& request, const Training& training,
                                 const TrainingProgress& progress);

/// Writes the tensors alone, Training::state(), into `folder`, which is made: for an artifact that keeps the
/// training state.
Status write_training_tensors(const std::vector<std::pair<std::string, at::Tensor>>& state,
                              const std::filesystem::path& folder);

}  // namespace finesweep::worker
