#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/gguf_header.h"

namespace finesweep::worker {

/// A GGUF file, opened for reading. The header is validated whole on opening: every later read stays inside the
/// file. Reads with pread. Copies share the open file; reading from several threads is safe.
class GgufFile {
 public:
  /// The Error names the file, the tensor or key where there is one, and what is wrong.
  static Result<GgufFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const GgufHeader& header() const;

  /// Sorted.
  std::vector<std::string> names() const;
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null where the file has no such tensor.
  const GgufTensorEntry* find(std::string_view name) const;
  /// A contiguous copy on the CPU in fp32, or in bf16 rounded from it. Types: see can_decode (gguf_blocks.h). Uses
  /// all threads of libtorch.
  Result<at::Tensor> tensor(std::string_view name, at::ScalarType type = at::kFloat) const;

  bool has_value(std::string_view key) const;
  /// A metadata value as std::string, std::int64_t, double, bool or a std::vector of one of the first three. An
  /// integer serves as double too. An Error where the key is missing or of another type.
  template <typename T>
  Result<T> value(std::string_view key) const;
  /// The same, or nothing where the key is missing.
  template <typename T>
  Result<std::optional<T>> value_if_present(std::string_view key) const;

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

}  // namespace finesweep::worker
