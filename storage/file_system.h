#pragma once

#include <filesystem>
#include <string>

#include "jobs/result.h"

namespace finesweep::storage {

/// What a folder lies on, as far as it matters for the database's journal.
struct FileSystem {
  /// "ext4", "NFS", "Lustre", …; the magic number in hex where it is not one we know.
  std::string name;
  /// Other hosts may see it, or it has no shared memory between processes: no write-ahead log there.
  bool network = false;
};

Result<FileSystem> file_system_of(const std::filesystem::path& path);

}  // namespace finesweep::storage
