#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "jobs/result.h"

namespace finesweep::worker {

/// Tensors by name, on the CPU.
using NamedTensors = std::map<std::string, at::Tensor>;

/// Files FOLDER/KEY.safetensors that may be missing or damaged at any time: what is read is what was written, by
/// its checksum, or nothing. Several processes on several hosts may use one folder. A key says all that the content
/// follows from: two writers of one key write the same.
class TensorCache {
 public:
  /// An empty folder: nothing is kept.
  explicit TensorCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  bool is_on() const { return !folder_.empty(); }
  /// Nothing where there is no such file, or it is not what was written: the latter is said on stderr.
  std::optional<NamedTensors> read(const std::string& key) const;
  /// Makes the folder where it is missing. A file appears whole, or not at all.
  Status write(const std::string& key, const NamedTensors& tensors) const;

 private:
  std::filesystem::path file(const std::string& key) const { return folder_ / (key + ".safetensors"); }

  std::filesystem::path folder_;
};

}  // namespace finesweep::worker
