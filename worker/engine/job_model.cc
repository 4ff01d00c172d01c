#include "worker/engine/job_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <vector>

#include "storage/artifact.h"
#include "worker/engine/device.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// Names the files that a model is loaded from, with size and time: another file gives another text.
std::string fingerprint(const fs::path& folder) {
  std::vector<std::string> lines;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".safetensors") && !name.ends_with(".json")) continue;
    struct stat info {};
    if (::stat(entry.path().c_str(), &info) != 0) continue;
    lines.push_back(name + " " + std::to_string(info.st_size) + " " + std::to_string(info.st_mtim.tv_sec) + "." +
                    std::to_string(info.st_mtim.tv_nsec) + " " + std::to_string(info.st_ino));
  }
  std::sort(lines.begin(), lines.end());
  std::string text = folder.string();
  for (const auto& line : lines) text += "\n" + line;
  return text;
}

}  // namespace

Json ModelManifest::to_json() const {
  Json json = {{"kind", is_adapter ? "adapter" : "model"},
               {"family", family},
               {"base", base},
               {"pooling", pooling == Pooling::mean ? "mean" : "cls"},
               {"labels", labels.to_json()},
               {"label_count", labels.count()}};
  if (!training.is_null()) json["training"] = training;
  return json;
}

Result<ModelManifest> ModelManifest::from_json(const Json& json) {
  try {
    ModelManifest manifest;
    const auto kind = json.at("kind").get<std::string>(), pooling = json.at("pooling").get<std::string>();
    if ((kind != "adapter" && kind != "model") || (pooling != "cls" && pooling != "mean")) {
      return Error{"The manifest of an input describes a model of kind '" + kind + "' with pooling '" + pooling +
                   "', which this version of finesweep does not know."};
    }
    manifest.is_adapter = kind == "adapter";
    manifest.pooling = pooling == "mean" ? Pooling::mean : Pooling::cls;
    manifest.family = json.at("family");
    manifest.base = json.at("base");
    manifest.training = json.value("training", Json());
    auto labels = Labels::from_json(json.at("labels"));
    if (!labels) return labels.error();
    manifest.labels = std::move(*labels);
    return manifest;
  } catch (const std::exception& exception) {
    return Error{std::string("The manifest of an input does not describe a model: ") + exception.what()};
  }
}

Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context) {
  ModelSource source;
  source.folder = context.model;
  if (request.job.inputs.empty()) return source;
  const auto artifact = request.artifacts.find(request.job.inputs.front());
  if (artifact == request.artifacts.end()) return Error{"The artifact of the job's input was not handed over."};
  auto manifest = storage::read_manifest(artifact->second);
  if (!manifest) return manifest.error();
  auto described = ModelManifest::from_json(manifest->model);
  if (!described) return described.error();
  if (described->is_adapter) {
    source.adapter = artifact->second / "adapter";
  } else {
    source.folder = artifact->second / "model";
  }
  source.manifest = std::move(*described);
  return source;
}

Result<std::shared_ptr<const Pretrained>> load_base(const fs::path& folder, at::ScalarType storage,
                                                    c10::Device device, KeepLoaded keep) {
  // One job at a time runs in a process, on one thread.
  static std::string loaded_key;
  static std::shared_ptr<const Pretrained> loaded;
  const std::string key = fingerprint(folder) + "\n" + std::string(c10::toString(storage)) + " " + device.str();
  if (keep == KeepLoaded::no || loaded_key != key) loaded.reset();
  begin_memory_peak(device);  // without the model of another job
  if (loaded) return loaded;
  auto base = load_pretrained(folder, storage, device);
  if (base && keep == KeepLoaded::yes) {
    loaded = *base;
    loaded_key = key;
  }
  return base;
}

}  // namespace finesweep::worker
