#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {

/// The weights of a Hugging Face directory as one map from name to tensor: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` lists. Pickle files (*.bin, *.pt) are never opened: loading one runs its code.
class WeightFiles {
 public:
  static Result<WeightFiles> open(const std::filesystem::path& directory);

  /// Sorted.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null where there is no such tensor.
  const TensorEntry* find(std::string_view name) const;
  Result<at::Tensor> tensor(std::string_view name) const;
  /// The file that holds the tensor, for messages; the directory where there is no such tensor.
  std::filesystem::path file_of(std::string_view name) const;
  /// Every file that was opened.
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_by_name_;
};

}  // namespace finesweep::worker
