#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "jobs/json.h"
#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

/// What the coordinator of a running sweep answers to a request of this kind (storage/control.h); nothing where it
/// ended before it did. Waits for as long as it lives, `patience` at most: then an Error for the user, and the
/// request is taken back.
Result<std::optional<Json>> ask_coordinator(const storage::RunDirectory& run, const std::string& kind,
                                            const Json& payload, std::chrono::seconds patience);

}  // namespace finesweep::coordinator
