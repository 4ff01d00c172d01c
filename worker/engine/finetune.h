#pragma once

#include <optional>
#include <string>
#include <utility>

#include "jobs/compression_settings.h"
#include "worker/engine/training_run.h"

namespace finesweep::worker {

/// A training of all weights, or of an adapter and the head.
class FinetuneRecipe final : public TrainingRecipe {
 public:
  /// Of a job's settings.
  static Result<FinetuneRecipe> read(const Json& settings);

  const FinetuneSettings& settings() const { return settings_; }
  const TrainingSettings& training() const override { return settings_.training; }
  std::string method() const override;
  void begin_load(const ModelSource& source, c10::Device device) override;
  Result<JobModel> load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                        c10::Device device) override;

 private:
  FinetuneRecipe(FinetuneSettings settings, std::optional<PruneSettings> masks)
      : settings_(std::move(settings)), masks_(masks) {}

  FinetuneSettings settings_;
  std::optional<PruneSettings> masks_;
};

}  // namespace finesweep::worker
