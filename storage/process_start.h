#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace finesweep::storage {

/// When the process started, in clock ticks since the host's boot (field 22 of /proc/<pid>/stat): tells it from a
/// later one with its pid. Absent where there is no such process; a zombie counts as none.
std::optional<std::uint64_t> start_time_of(pid_t pid);

}  // namespace finesweep::storage
