#pragma once

#include <filesystem>

namespace finesweep::coordinator {

/// Removes what MPI processes that were killed have left of the memory they shared (Open MPI: vader_segment.… and
/// sm_segment.… of 4 MB a process, in /dev/shm), which in a container may be small: files of this user that are
/// older than a minute and that no process has mapped. Whoever may be starting has younger ones.
void remove_stale_segments(const std::filesystem::path& folder = "/dev/shm");

}  // namespace finesweep::coordinator
