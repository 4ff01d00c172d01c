#include "worker/engine/training_progress.h"

namespace finesweep::worker {
namespace {

Json statistics_to_json(const RunningStatistics& statistics) {
  return {{"count", statistics.count}, {"mean", statistics.mean}, {"squares", statistics.squares}};
}

RunningStatistics statistics_from_json(const Json& json) {
  return {json.at("count"), json.at("mean"), json.at("squares")};
}

}  // namespace

Json to_json(const TrainingProgress& progress) {
  Json json = {{"version", 1},
               {"steps", progress.steps},
               {"epoch_loss_sum", progress.epoch_loss_sum},
               {"epoch_loss_steps", progress.epoch_loss_steps},
               {"last_epoch_loss", progress.last_epoch_loss},
               {"history", progress.history},
               {"evaluated_at", progress.evaluated_at},
               {"seconds", progress.seconds},
               {"peak_memory_mb", progress.peak_memory_mb},
               {"batch_ms", statistics_to_json(progress.batch_ms)},
               {"samples_per_second", statistics_to_json(progress.samples_per_second)},
               {"timed_tokens", progress.timed_tokens},
               {"timed_seconds", progress.timed_seconds}};
  if (progress.validation_loss) json["validation_loss"] = *progress.validation_loss;
  return json;
}

Result<TrainingProgress> training_progress_from_json(const Json& json) {
  try {
    if (json.at("version") != 1) return Error{"the training state was written by another version of finesweep"};
    TrainingProgress progress;
    progress.steps = json.at("steps");
    progress.epoch_loss_sum = json.at("epoch_loss_sum");
    progress.epoch_loss_steps = json.at("epoch_loss_steps");
    progress.last_epoch_loss = json.at("last_epoch_loss");
    progress.history = json.at("history").get<std::vector<HistoryPoint>>();
    progress.evaluated_at = json.at("evaluated_at");
    if (json.contains("validation_loss")) progress.validation_loss = json["validation_loss"].get<double>();
    progress.seconds = json.at("seconds");
    progress.peak_memory_mb = json.at("peak_memory_mb");
    progress.batch_ms = statistics_from_json(json.at("batch_ms"));
    progress.samples_per_second = statistics_from_json(json.at("samples_per_second"));
    progress.timed_tokens = json.at("timed_tokens");
    progress.timed_seconds = json.at("timed_seconds");
    return progress;
  } catch (const std::exception& exception) {
    return Error{std::string("the training state is damaged: ") + exception.what()};
  }
}

}  // namespace finesweep::worker
