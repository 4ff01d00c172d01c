#include "worker/formats/weight_files.h"

#include <nlohmann/json.hpp>

#include "storage/files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

/// Why a directory without safetensors has no weights that we load.
Error no_weights(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored)) {
    return {"Cannot load a model from " + directory.string() + ": it is not a directory."};
  }
  for (const auto& file : fs::directory_iterator(directory, ignored)) {
    const auto extension = file.path().extension();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      return {"Cannot load a model from " + directory.string() + ": its weights are in " +
              file.path().filename().string() +
              ", a pickle file, and loading one runs the code in it. Convert it to model.safetensors first."};
    }
  }
  return {"Cannot load a model from " + directory.string() +
          ": it holds neither model.safetensors nor model.safetensors.index.json."};
}

}  // namespace

Result<WeightFiles> WeightFiles::open_gguf(const fs::path& path) {
  auto gguf = GgufLlama::open(path);
  if (!gguf) return gguf.error();
  WeightFiles weights;
  weights.directory_ = path;
  for (const std::string& name : gguf->names()) {
    TensorEntry entry;
    entry.dtype = "F32";
    entry.shape = gguf->find(name)->shape;
    weights.gguf_entries_.emplace(name, std::move(entry));
  }
  weights.gguf_ = std::move(*gguf);
  return weights;
}

Result<WeightFiles> WeightFiles::open(const fs::path& directory) {
  std::error_code ignored;
  if (fs::is_regular_file(directory, ignored)) return open_gguf(directory);
  WeightFiles weights;
  weights.directory_ = directory;

  const fs::path single = directory / "model.safetensors";
  if (fs::exists(single, ignored)) {
    auto file = SafetensorsFile::open(single);
    if (!file) return file.error();
    for (const auto& name : file->names()) weights.file_by_name_[name] = 0;
    weights.files_.push_back(std::move(*file));
    return weights;
  }

  const fs::path index_path = directory / "model.safetensors.index.json";
  if (!fs::exists(index_path, ignored)) return no_weights(directory);
  auto text = storage::read_file(index_path);
  if (!text) return text.error();
  const auto index = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return Error{"Cannot read " + index_path.string() + ": it has no weight_map."};
  }
  std::map<std::string, std::size_t> opened;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) return Error{"Cannot read " + index_path.string() + ": a shard's name is not text."};
    const auto shard_name = shard.get<std::string>();
    if (shard_name.empty() || fs::path(shard_name).filename() != shard_name || shard_name == "..") {
      return Error{"Cannot read " + index_path.string() + ": the shard '" + shard_name +
                   "' is outside its folder."};
    }
    auto found = opened.find(shard_name);
    if (found == opened.end()) {
      auto file = SafetensorsFile::open(directory / shard_name);
      if (!file) return file.error();
      found = opened.emplace(shard_name, weights.files_.size()).first;
      weights.files_.push_back(std::move(*file));
    }
    if (!weights.files_[found->second].contains(name)) {
      return Error{"Cannot load a model from " + directory.string() + ": the index places tensor '" + name +
                   "' in " + shard_name + ", which does not hold it."};
    }
    weights.file_by_name_[name] = found->second;
  }
  return weights;
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_by_name_) names.push_back(name);
  for (const auto& [name, entry] : gguf_entries_) names.push_back(name);
  return names;
}

const TensorEntry* WeightFiles::find(std::string_view name) const {
  if (const auto entry = gguf_entries_.find(name); entry != gguf_entries_.end()) return &entry->second;
  const auto found = file_by_name_.find(name);
  return found == file_by_name_.end() ? nullptr : files_[found->second].find(name);
}

Result<at::Tensor> WeightFiles::tensor(std::string_view name) const {
  if (gguf_) return gguf_->tensor(name);
  const auto found = file_by_name_.find(name);
  if (found == file_by_name_.end()) {
    return Error{"The model in " + directory_.string() + " has no tensor '" + std::string(name) + "'."};
  }
  return files_[found->second].tensor(name);
}

fs::path WeightFiles::file_of(std::string_view name) const {
  const auto found = file_by_name_.find(name);
  return found == file_by_name_.end() ? directory_ : files_[found->second].path();
}

}  // namespace finesweep::worker
