#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/outcome.h"
#include "jobs/result.h"
#include "worker/metrics/statistics.h"

namespace finesweep::worker {

/// What a training has come to, beside its tensors: with them, all that a checkpoint holds. The position in the
/// data follows from the number of steps.
struct TrainingProgress {
  std::int64_t steps = 0;  // optimiser steps done

  /// Of the epoch that is under way, and of the last one that ended.
  double epoch_loss_sum = 0;
  std::int64_t epoch_loss_steps = 0;
  double last_epoch_loss = 0;
  std::vector<HistoryPoint> history;

  /// The step after which the last evaluation was; 0: none yet.
  std::int64_t evaluated_at = 0;
  std::optional<double> validation_loss;

  /// Over all attempts. Of the batches that were timed: the first steps of each attempt are not.
  double seconds = 0;
  double peak_memory_mb = 0;
  /// The most jobs that it was trained together with, itself among them; 0: it was always alone. Then it has no
  /// peak of memory of its own.
  std::int64_t pack = 0;
  RunningStatistics batch_ms, samples_per_second;
  double timed_tokens = 0, timed_seconds = 0;

  /// The mean of the epoch under way where it has steps, else of the last one.
  double epoch_loss() const {
    return epoch_loss_steps > 0 ? epoch_loss_sum / static_cast<double>(epoch_loss_steps) : last_epoch_loss;
  }
  /// One more step, which took so long for so many batches, rows and tokens.
  void add_step_time(double step_seconds, std::int64_t batches, std::int64_t rows, std::int64_t tokens);
  /// Counts the loss of the step that was done last; where the epoch or the training ends with it, returns the
  /// epoch's mean.
  std::optional<double> add_step_loss(double loss, bool epoch_ends);
  /// What a training step of a sweep reports, but for trainable_parameters.
  std::map<std::string, double> metrics() const;
};

Json to_json(const TrainingProgress& progress);
Result<TrainingProgress> training_progress_from_json(const Json& json);

}  // namespace finesweep::worker
