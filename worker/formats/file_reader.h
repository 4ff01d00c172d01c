#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "jobs/result.h"

namespace finesweep::worker {

/// Reads exactly `bytes` at `offset` of a file, or of what stands for one in a test. Empty on success, else why
/// not.
using ReadAt = std::function<std::string(void* into, std::uint64_t bytes, std::uint64_t offset)>;

/// A regular file, read with pread: one that shrinks meanwhile gives an error and not a SIGBUS. Copies share the
/// open file; reading from several threads is safe.
class FileReader {
 public:
  /// The Error is the reason alone: the caller knows what the file was meant to be.
  static Result<FileReader> open(const std::filesystem::path& path);

  /// As it was on opening.
  std::uint64_t bytes() const;
  /// As ReadAt.
  std::string read(void* into, std::uint64_t bytes, std::uint64_t offset) const;

 private:
  struct Contents;
  std::shared_ptr<const Contents> contents_;
};

/// A name out of a file, bounded and without control characters, for a message.
std::string printable(std::string_view name);

}  // namespace finesweep::worker
