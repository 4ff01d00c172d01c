#pragma once

#include <filesystem>

namespace finesweep {

/// Where finesweep keeps for its user what costs time to find out again and nothing else:
/// $XDG_CACHE_HOME/finesweep, else ~/.cache/finesweep, else empty (nothing is kept). May be removed at any time.
std::filesystem::path user_cache();

}  // namespace finesweep
