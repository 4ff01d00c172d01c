#include "worker/engine/finetune.h"

#include "worker/engine/model_artifact.h"
#include "worker/engine/steps.h"

namespace finesweep::worker {

Result<FinetuneRecipe> FinetuneRecipe::read(const Json& job_settings) {
  auto settings = read_finetune_settings(job_settings);
  if (!settings) return settings.error();
  const auto masks = read_masks_while_training(job_settings);
  if (!masks) return masks.error();
  return FinetuneRecipe(std::move(*settings), *masks);
}

std::string FinetuneRecipe::method() const {
  return method_name(settings_.method);
}

void FinetuneRecipe::begin_load(const ModelSource& source, c10::Device device) {
  begin_load_trained(source, settings_, device);
}

Result<JobModel> FinetuneRecipe::load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                                      c10::Device device) {
  return load_trained(source, head, settings_, seed, device, masks_);
}

Outcome finetune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  auto recipe = FinetuneRecipe::read(request.job.settings);
  if (!recipe) return failed_for_good(recipe.error().message);
  return TrainingRun(request, context, device, control, *recipe).run();
}

}  // namespace finesweep::worker
