#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "jobs/settings.h"
#include "worker/engine/job_model.h"
#include "worker/models/forward_graphs.h"

namespace finesweep::worker {

/// A frozen model that is evaluated, and its passes.
struct EvaluatedModel {
  EvaluatedModel(JobModel model, std::string serves, int captured_from)
      : loaded(std::move(model)), key(std::move(serves)), forward(*loaded.model, 1, captured_from) {}

  JobModel loaded;
  std::string key;  // what evaluations have in common that it may serve
  ForwardGraphs forward;
};

/// As load_frozen. Where keep_evaluated() left a model of the same base with an adapter of the same kind, only the
/// adapter's values are read: what was captured of its passes serves on. `captured_from`: ForwardGraphs'.
Result<std::shared_ptr<EvaluatedModel>> load_evaluated(const ModelSource& source, const HeadChoice& head,
                                                       const EvaluateSettings& settings, std::uint64_t seed,
                                                       c10::Device device, int captured_from);

/// Leaves the model of an evaluation that went well for the next one, as long as its base stays loaded.
void keep_evaluated(std::shared_ptr<EvaluatedModel> model);

}  // namespace finesweep::worker
