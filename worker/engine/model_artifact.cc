#include "worker/engine/model_artifact.h"

#include <utility>

#include "storage/artifact.h"
#include "worker/engine/model_files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

const char* method_name(Method method) {
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

}  // namespace

ModelManifest describe_model(const JobModel& made, const ModelSource& source, const HeadChoice& head,
                             const JobContext& context, Method method) {
  ModelManifest manifest;
  manifest.is_adapter = made.adapter != nullptr;
  manifest.task = context.task;
  manifest.family = std::string(made.model->family());
  manifest.method = method_name(method);
  manifest.base_model = context.model;
  if (manifest.is_adapter) {
    manifest.base_job = source.model_job;
    manifest.quantization = source.quantization;
    manifest.compute = source.compute;
  }
  manifest.head = head;
  return manifest;
}

Status write_model_artifact(const ExecutionRequest& request, const JobModel& made, const ModelSource& source,
                            const ModelManifest& description, const Outcome& outcome) {
  const fs::path folder = request.staging / "artifact";
  storage::Manifest manifest;
  manifest.job = request.job.id;
  manifest.attempt = request.attempt;
  manifest.kind = request.job.kind;
  manifest.outcome = outcome;
  manifest.model = description.to_json();
  if (made.adapter) {
    fs::create_directories(folder / "adapter");
    if (Status written = write_adapter(*made.adapter, description.base_model, folder / "adapter"); !written) {
      return written;
    }
  } else {
    fs::create_directories(folder / "model");
    if (Status written = save_pretrained(*made.model, folder / "model"); !written) return written;
    if (Status copied = copy_model_files(source.tokenizer, folder / "model"); !copied) return copied;
  }
  return storage::seal_artifact(folder, manifest);
}

}  // namespace finesweep::worker
