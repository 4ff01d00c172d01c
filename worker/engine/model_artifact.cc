#include "worker/engine/model_artifact.h"

#include <utility>

#include "storage/artifact.h"
#include "worker/engine/masks.h"
#include "worker/engine/model_files.h"
#include "worker/formats/host_copies.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

}  // namespace

std::string method_name(Method method) {
  switch (method) {
    case Method::full:
      return "full";
    case Method::lora:
      return "lora";
    case Method::qlora:
      return "qlora";
    case Method::ia3:
      return "ia3";
  }
  return "";
}

ModelManifest describe_model(const JobModel& made, const ModelSource& source, const HeadChoice& head,
                             const JobContext& context, const std::string& method) {
  ModelManifest manifest;
  manifest.is_adapter = made.adapter != nullptr;
  manifest.task = context.task;
  manifest.family = std::string(made.model->family());
  manifest.method = method;
  manifest.base_model = context.model;
  if (manifest.is_adapter) {
    manifest.base_job = source.model_job;
    manifest.quantization = source.quantization;
    manifest.compute = source.compute;
    manifest.storage = source.storage;
  }
  manifest.head = head;
  return manifest;
}

ModelManifest describe_source(const ModelSource& source, const JobContext& context, const std::string& family) {
  ModelManifest manifest;
  manifest.method = "none";
  if (source.manifest) manifest = *source.manifest;
  manifest.is_adapter = source.adapter.has_value();
  manifest.task = context.task;
  manifest.family = family;
  manifest.base_model = context.model;
  manifest.base_job = manifest.is_adapter ? source.model_job : std::nullopt;
  manifest.quantization = source.quantization;
  manifest.compute = source.compute;
  manifest.storage = source.storage;
  manifest.training = Json();
  return manifest;
}

Status write_model_artifact(const ExecutionRequest& request, const JobModel& made, const ModelSource& source,
                            const ModelManifest& description, const Outcome& outcome) {
  return model_artifact_writer(request, made, source, description, outcome)();
}

std::function<Status()> model_artifact_writer(const ExecutionRequest& request, const JobModel& made,
                                              const ModelSource& source, ModelManifest description,
                                              Outcome outcome) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  NamedMasks masks = named(made.masks);
  if (made.adapter) {
    tensors = copies_on_host(made.adapter->tensors());
    masks = copies_on_host(masks);
  }
  return [&request, &made, &source, tensors = std::move(tensors), masks = std::move(masks),
          description = std::move(description), outcome = std::move(outcome)]() -> Status {
    const fs::path folder = request.staging / "artifact";
    if (made.adapter) {
      fs::create_directories(folder / "adapter");
      // What PEFT is to load it on: a base that an earlier step has made stands with that step's artifact.
      const std::string base = description.base_job ? source.model.string() : description.base_model;
      const Status written = write_adapter(*made.adapter, tensors, base, folder / "adapter");
      if (!written) return written;
    } else {
      fs::create_directories(folder / "model");
      if (Status written = save_pretrained(*made.model, folder / "model"); !written) return written;
      if (Status copied = copy_model_files(source.tokenizer, folder / "model"); !copied) return copied;
    }
    if (Status written = write_masks(masks, folder); !written) return written;
    return seal_model_artifact(request, description, outcome);
  };
}

Status seal_model_artifact(const ExecutionRequest& request, const ModelManifest& description,
                           const Outcome& outcome) {
  storage::Manifest manifest;
  manifest.job = request.job.id;
  manifest.attempt = request.attempt;
  manifest.kind = request.job.kind;
  manifest.outcome = outcome;
  manifest.model = description.to_json();
  return storage::seal_artifact(request.staging / "artifact", manifest);
}

Status copy_adapter(const ModelSource& source, const fs::path& artifact) {
  fs::create_directories(artifact / "adapter");
  for (const auto& entry : fs::directory_iterator(*source.adapter)) {
    std::error_code error;
    fs::copy_file(entry.path(), artifact / "adapter" / entry.path().filename(),
                  fs::copy_options::overwrite_existing, error);
    if (error) return Error{"The adapter cannot be copied: " + error.message()};
  }
  return {};
}

}  // namespace finesweep::worker
