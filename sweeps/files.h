#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "jobs/result.h"

namespace finesweep::sweeps {

/// All that reading a sweep file asks of the world. Paths are absolute.
class SweepFiles {
 public:
  enum class Kind { missing, file, directory };
  struct Info {
    Kind kind = Kind::missing;
    std::uint64_t bytes = 0;
  };

  virtual ~SweepFiles() = default;
  virtual Info info(const std::filesystem::path& path) = 0;
  /// The first `most` bytes, or all where there are fewer.
  virtual Result<std::string> read_start(const std::filesystem::path& path, std::size_t most) = 0;
  /// Names of the files in a folder, sorted.
  virtual Result<std::vector<std::string>> list(const std::filesystem::path& folder) = 0;
  /// Hex SHA-256 of the whole file.
  virtual Result<std::string> sha256(const std::filesystem::path& path) = 0;
};

/// The file system. Checksums are kept in `cache_file` (by path, size and time of change) and written there when
/// the object goes; a cache that cannot be read or written costs time and nothing else.
std::unique_ptr<SweepFiles> make_sweep_files(std::filesystem::path cache_file);

/// sha256.json in user_cache(); empty (no cache) where there is none.
std::filesystem::path default_checksum_cache();

/// Files in memory, for tests. A folder exists where a file lies below it.
class MemoryFiles : public SweepFiles {
 public:
  std::map<std::filesystem::path, std::string> files;
  std::size_t hashed = 0;  // calls of sha256

  Info info(const std::filesystem::path& path) override;
  Result<std::string> read_start(const std::filesystem::path& path, std::size_t most) override;
  Result<std::vector<std::string>> list(const std::filesystem::path& folder) override;
  Result<std::string> sha256(const std::filesystem::path& path) override;
};

}  // namespace finesweep::sweeps
