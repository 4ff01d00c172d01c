#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "jobs/json.h"
#include "jobs/result.h"

namespace finesweep::storage {

// What artifacts and checkpoints have in common: a folder whose list of files, with sizes and SHA-256, stands in
// one sealed JSON file that is written last.

struct SealedFile {
  std::uint64_t bytes = 0;
  std::string sha256;  // hex
};
/// By path relative to the folder, with '/'.
using SealedFiles = std::map<std::string, SealedFile>;

/// Syncs every file and folder below `folder` and returns sizes and checksums. Links and special files are refused;
/// the file `except` directly in the folder is left out.
Result<SealedFiles> seal_files(const std::filesystem::path& folder, const std::string& except);

/// Checks that each file is there, is a plain file reached without links and without leaving `folder`, and has its
/// size and checksum. Files that are not listed do not matter.
Status verify_files(const std::filesystem::path& folder, const SealedFiles& files);

/// `object` with the key "sha256" over the canonical text of all the others: a flipped bit inside is noticed.
Json with_checksum(Json object);
/// The Error says whether the text is no JSON or does not match its checksum.
Result<Json> parse_with_checksum(const std::string& text, const std::string& what);

Json files_to_json(const SealedFiles& files);
/// Throws nlohmann's exceptions on ill-typed input.
SealedFiles files_from_json(const Json& json);

}  // namespace finesweep::storage
