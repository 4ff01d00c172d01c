#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/engine/job_model.h"
#include "worker/engine/steps.h"
#include "worker/engine/task_data.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {

/// What tells one kind of training from another. Called in this order, once each.
class TrainingRecipe {
 public:
  virtual ~TrainingRecipe() = default;
  virtual const TrainingSettings& training() const = 0;
  /// What artifacts say of the model.
  virtual std::string method() const = 0;

  /// What the training starts from.
  virtual Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context) {
    return worker::find_model(request, context);
  }
  virtual Result<JobModel> load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                                c10::Device device) = 0;
  /// In place of the loss of `model`; empty: that one. `rows` are those that train. Both outlive what is returned.
  virtual Result<TrainingLoss> loss(Model& /*model*/, const TaskData& /*rows*/, c10::Device /*device*/) {
    return TrainingLoss();
  }
};

/// A training from its data to its artifact: steps, evaluations, checkpoints, metrics. Whatever the recipe is, it
/// can be stopped between two steps and goes on bit for bit as if it had not been.
Outcome train(const ExecutionRequest& request, const JobContext& context, c10::Device device,
              ExecutionControl& control, TrainingRecipe& recipe);

}  // namespace finesweep::worker
