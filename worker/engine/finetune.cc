#include <optional>
#include <utility>

#include "jobs/compression_settings.h"
#include "worker/engine/model_artifact.h"
#include "worker/engine/steps.h"
#include "worker/engine/training_run.h"

namespace finesweep::worker {
namespace {

class FinetuneRecipe final : public TrainingRecipe {
 public:
  FinetuneRecipe(FinetuneSettings settings, std::optional<PruneSettings> masks)
      : settings_(std::move(settings)), masks_(masks) {}

  const TrainingSettings& training() const override { return settings_.training; }
  std::string method() const override { return method_name(settings_.method); }
  Result<JobModel> load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                        c10::Device device) override {
    return load_trained(source, head, settings_, seed, device, masks_);
  }

 private:
  FinetuneSettings settings_;
  std::optional<PruneSettings> masks_;
};

}  // namespace

Outcome finetune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  auto settings = read_finetune_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  const auto masks = read_masks_while_training(request.job.settings);
  if (!masks) return failed_for_good(masks.error().message);
  FinetuneRecipe recipe(std::move(*settings), *masks);
  return train(request, context, device, control, recipe);
}

}  // namespace finesweep::worker
