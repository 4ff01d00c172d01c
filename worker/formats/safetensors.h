#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/safetensors_header.h"

namespace finesweep::worker {

/// A safetensors file, opened for reading. The header is validated whole on opening: every later read stays inside
/// the file. Reads with pread, so a file that shrinks meanwhile gives an Error and not a SIGBUS. Copies share the
/// open file; reading from several threads is safe.
class SafetensorsFile {
 public:
  /// The Error names the file, the tensor where there is one, and what is wrong.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  /// Sorted.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const;
  /// Null where the file has no such tensor.
  const TensorEntry* find(std::string_view name) const;
  /// A contiguous copy on the CPU in the file's dtype: F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL.
  Result<at::Tensor> tensor(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const;

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

/// Writes `path` as the safetensors library does: by falling alignment, then by name; the header padded to 8 bytes.
/// Tensors may be on any device and need not be contiguous. Equal tensors give equal bytes. Not atomic: artifacts
/// and checkpoints are sealed by their folders (storage/artifact.h, storage/checkpoint.h).
Status write_safetensors(const std::filesystem::path& path,
                         const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace finesweep::worker
