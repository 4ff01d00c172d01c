#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"

namespace finesweep::storage {

/// Checkpoints of one attempt stand in one folder, each a folder `step-<n>` that appears whole or not at all and is
/// guarded by checksums; the two newest are kept, so that a torn one leaves the one before it.
///
/// What is in a checkpoint is the engine's business: it writes files into the folder it is given, and `state`.

struct Checkpoint {
  std::filesystem::path folder;
  std::int64_t step = 0;
  Json state;
};

/// Makes a temporary folder under `checkpoints`, lets `write` fill it, seals it with checksums, renames it to
/// step-<step>, and removes all but the two newest.
Status write_checkpoint(const std::filesystem::path& checkpoints, std::int64_t step, const Json& state,
                        const std::function<Status(const std::filesystem::path& folder)>& write);

/// The valid checkpoint with the highest step among several attempts' folders; what is torn or flipped is passed
/// over, with a line in `rejected` saying which and why.
std::optional<Checkpoint> newest_valid_checkpoint(const std::vector<std::filesystem::path>& checkpoint_folders,
                                                  std::vector<std::string>* rejected = nullptr);

}  // namespace finesweep::storage
