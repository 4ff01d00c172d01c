#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "jobs/result.h"

namespace finesweep::storage {

/// Reads a whole file. The Error names the path and the reason.
Result<std::string> read_file(const std::filesystem::path& path);

/// Write beside, sync, rename over `path`, sync the folder: afterwards `path` holds the old bytes or the new,
/// whatever happens in between. `mode`: permissions of the file, less the umask; it has them from the first moment.
Status write_file_atomically(const std::filesystem::path& path, std::string_view bytes, unsigned mode = 0666);

/// fsync of a file or folder.
Status sync_path(const std::filesystem::path& path);

/// Renames a folder or file within one file system and syncs both parent folders. Fails where `to` exists.
Status rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Hex SHA-256 of a file's bytes.
Result<std::string> sha256_of_file(const std::filesystem::path& path);

}  // namespace finesweep::storage
