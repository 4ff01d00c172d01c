#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/gguf_llama.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {

/// The weights of a model as one map from Hugging Face's names to tensors: of a directory `model.safetensors`, or
/// the shards that `model.safetensors.index.json` lists; or a GGUF file, whose tensors are given in fp32. Pickle
/// files
/// (*.bin, *.pt) are never opened: loading one runs its code.
class WeightFiles {
 public:
  /// A folder, or a GGUF file.
  static Result<WeightFiles> open(const std::filesystem::path& path);

  /// Sorted.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null where there is no such tensor.
  const TensorEntry* find(std::string_view name) const;
  Result<at::Tensor> tensor(std::string_view name) const;
  /// The file that holds the tensor, for messages; the directory where there is no such tensor.
  std::filesystem::path file_of(std::string_view name) const;
  /// Every safetensors file that was opened.
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// The GGUF file, where it is one.
  const std::optional<GgufLlama>& gguf() const { return gguf_; }

 private:
  static Result<WeightFiles> open_gguf(const std::filesystem::path& path);

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_by_name_;
  std::optional<GgufLlama> gguf_;
  std::map<std::string, TensorEntry, std::less<>> gguf_entries_;
};

}  // namespace finesweep::worker
