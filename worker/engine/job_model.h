#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/compression_settings.h"
#include "jobs/job.h"
#include "jobs/settings.h"
#include "worker/adapters/adapter.h"
#include "worker/data/examples.h"
#include "worker/executor.h"
#include "worker/models/base_quantization.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"
#include "worker/training/pruning.h"

namespace finesweep::worker {

/// Of a model that classifies: how its head pools, and what its outputs mean.
struct ClassificationHead {
  Pooling pooling = Pooling::cls;
  Labels labels;
};

/// The head that a model gets; none: that of a language model.
using HeadChoice = std::optional<ClassificationHead>;

/// `model` in the manifest of an artifact that holds a model: what later steps need to load it.
///
///   {"version": 2, "kind": "adapter" | "model",   in the folder of that name: a PEFT adapter, or a Hugging Face
///                                                  directory
///    "task": "classification", "family": "bert", "method": "qlora",
///    "head": {"pooling": "cls" | "mean", "labels": {…}, "label_count": 2}   classification only
///    "base": {"model": "…", "job": "…"},           what the adapter stands on: the artifact of that job where
///    there
///                                                  is one, else the job's own model, named for people
///    "quantization": {"format": "nf4", "double": true, "block_size": 64},   how the weights (of an adapter's base)
///                                                  are kept; absent: as they are
///    "storage": "fp16",                            what the other weights are rounded to; absent: not rounded
///    "compute": "bf16",                            what products with quantised weights are computed in; absent:
///    in
///                                                  the precision
///    "training": {…}}                              only where the training state was kept: TrainingProgress,
///    beside
///                                                  training/
///
/// An adapter whose base is in the same artifact names the artifact's own job as its base. Masks of what is pruned
/// stand beside it (engine/masks.h).
struct ModelManifest {
  bool is_adapter = false;
  Task task = Task::classification;
  std::string family, method;
  HeadChoice head;
  std::string base_model;
  std::optional<JobId> base_job;
  std::optional<BaseQuantization> quantization;
  std::optional<Precision> compute, storage;
  Json training;

  Json to_json() const;
  static Result<ModelManifest> from_json(const Json& json);
};

/// What a job starts from: the model of the sweep file, or what earlier jobs left.
struct ModelSource {
  std::filesystem::path model;                   // a Hugging Face directory, or a GGUF file
  std::filesystem::path tokenizer;               // the same: what holds the tokenizer
  std::optional<std::filesystem::path> adapter;  // a PEFT directory over it
  /// How the model is to be kept; absent: as it stands in its files.
  std::optional<BaseQuantization> quantization;
  std::optional<Precision> compute;            // of products with quantised weights; absent: the model's precision
  std::optional<Precision> storage;            // what weights are rounded to
  std::optional<std::filesystem::path> masks;  // of what is pruned
  std::optional<JobId> model_job;              // that left `model`
  std::optional<ModelManifest> manifest;       // of the job's first input
};

Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context);

/// A model for one job, with its adapter where it has one.
struct JobModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;  // goes before the model
  std::vector<ParameterMask> masks;  // on what is trained

  /// What training changes: of the model, then of the adapter.
  std::vector<Parameter*> trained_parameters() const;
};

/// Nothing is trained. `seed` initialises a head that the files do not have.
Result<JobModel> load_frozen(const ModelSource& source, const HeadChoice& head, Precision precision,
                             std::uint64_t seed, c10::Device device);

/// The weights that load_frozen makes such a model of: they stay loaded from then on.
Result<std::shared_ptr<const Pretrained>> load_frozen_weights(const ModelSource& source, Precision precision,
                                                              c10::Device device);

/// A model that is trained as the settings say: all of it, or an adapter and the head. An adapter that `source`
/// brings is trained further. `source.quantization` becomes that of method qlora. What `source` prunes stays 0, and
/// so does what `masks` prune of an adapter. The Error: a method or options that do not go with what is there.
Result<JobModel> load_trained(ModelSource& source, const HeadChoice& head, const FinetuneSettings& settings,
                              std::uint64_t seed, c10::Device device,
                              const std::optional<PruneSettings>& masks = {});

/// Begins to read the weights that load_trained will make such a model of, while its data is read; those of a model
/// that is trained as a whole it reads itself.
void begin_load_trained(ModelSource source, const FinetuneSettings& settings, c10::Device device);

/// The frozen model that adapters over `source` stand on, without any of them: what the batches of a pack go
/// through. `source` is as load_trained left it, or of an evaluation as load_frozen has it; `model_dropout`
/// likewise.
Result<JobModel> load_host(const ModelSource& source, const HeadChoice& head, Precision precision,
                           std::optional<double> model_dropout, c10::Device device);

/// The student of a distillation: all of `source`, or so many layers of it, trained. The Error: what stands there
/// cannot be trained.
Result<JobModel> load_student(const ModelSource& source, const HeadChoice& head, const DistillSettings& settings,
                              std::uint64_t seed, c10::Device device);

}  // namespace finesweep::worker
