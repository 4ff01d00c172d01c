#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "jobs/job.h"
#include "jobs/settings.h"
#include "worker/adapters/adapter.h"
#include "worker/data/examples.h"
#include "worker/executor.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// `model` in the manifest of a training step's artifact: what later steps need to load what it left.
///
///   {"kind": "adapter" | "model",   in the folder of that name: a PEFT adapter, or a Hugging Face directory
///    "family": "bert", "pooling": "cls" | "mean", "labels": {…}  (Labels::to_json), "label_count": 2,
///    "base": "…",                   what the adapter was trained on, for people; it is found by the job's context
///    "training": {…}}               only where the training state was kept: TrainingProgress, beside training/
struct ModelManifest {
  bool is_adapter = false;
  std::string family, base;
  Pooling pooling = Pooling::cls;
  Labels labels;
  Json training;

  Json to_json() const;
  static Result<ModelManifest> from_json(const Json& json);
};

/// What a job starts from: the model of the sweep file, or what an earlier job left.
struct ModelSource {
  std::filesystem::path folder;                  // a Hugging Face directory
  std::optional<std::filesystem::path> adapter;  // a PEFT directory over it
  std::optional<ModelManifest> manifest;         // where an earlier job left it
};

Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context);

/// A model for one job, with its adapter where it has one.
struct JobModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;  // goes before the model
};

/// The frozen weights that a job's model is made of. They stay loaded from job to job while path, files, storage
/// type and device are the same, one model at a time; not where the job makes them its own: they would stand in
/// memory twice. The peak of memory is counted from here on.
enum class KeepLoaded { yes, no };
Result<std::shared_ptr<const Pretrained>> load_base(const std::filesystem::path& folder, at::ScalarType storage,
                                                    c10::Device device, KeepLoaded keep);

}  // namespace finesweep::worker
