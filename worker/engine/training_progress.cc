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

void TrainingProgress::add_step_time(double step_seconds, std::int64_t batches, std::int64_t rows,
                                     std::int64_t tokens) {
  batch_ms.add(1000 * step_seconds / static_cast<double>(batches));
  samples_per_second.add(static_cast<double>(rows) / step_seconds);
  timed_tokens += static_cast<double>(tokens);
  timed_seconds += step_seconds;
}

std::optional<double> TrainingProgress::add_step_loss(double loss, bool epoch_ends) {
  epoch_loss_sum += loss;
  ++epoch_loss_steps;
  if (!epoch_ends) return std::nullopt;
  last_epoch_loss = epoch_loss();
  epoch_loss_sum = 0;
  epoch_loss_steps = 0;
  return last_epoch_loss;
}

std::map<std::string, double> TrainingProgress::metrics() const {
  std::map<std::string, double> metrics;
  metrics["loss"] = epoch_loss();
  if (validation_loss) metrics["validation_loss"] = *validation_loss;
  metrics["seconds"] = seconds;
  if (pack == 0) metrics["peak_memory_mb"] = peak_memory_mb;
  if (batch_ms.count > 0) {
    metrics["batch_ms_mean"] = batch_ms.mean;
    metrics["samples_per_second_mean"] = samples_per_second.mean;
    metrics["tokens_per_second"] = timed_tokens / timed_seconds;
  }
  if (batch_ms.count > 1) {
    metrics["batch_ms_std"] = batch_ms.standard_deviation();
    metrics["samples_per_second_std"] = samples_per_second.standard_deviation();
  }
  return metrics;
}

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
  if (progress.pack > 0) json["pack"] = progress.pack;
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
    progress.pack = json.value("pack", std::int64_t{0});
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
