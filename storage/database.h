#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "jobs/result.h"

namespace SQLite {
class Database;
}

namespace finesweep::storage {

// Opening finesweep.db: journal, schema, versions. Sources that use the pointer include SQLiteCpp themselves.

/// PRAGMA user_version. Raised with every change of the schema; older ones are then upgraded in open_for_writing().
inline constexpr int kSchemaVersion = 1;

/// Runs `work` and turns what SQLite throws into an Error: "cannot <action> <path>: <SQLite's words>" and what to
/// do.
Status in_database(const std::filesystem::path& path, const std::string& action, const std::function<void()>& work);

/// The database with our schema, made where there is none; write-ahead log or, on a network file system, rollback
/// journal under an exclusive lock; synchronous either way.
Result<std::unique_ptr<SQLite::Database>> open_for_writing(const std::filesystem::path& path,
                                                           std::optional<bool> network_file_system);

/// For reading alone, in a folder that may not be written to as well.
Result<std::unique_ptr<SQLite::Database>> open_for_reading(const std::filesystem::path& path);

}  // namespace finesweep::storage
