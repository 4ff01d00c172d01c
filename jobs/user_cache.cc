#include "jobs/user_cache.h"

#include <cstdlib>

namespace finesweep {

std::filesystem::path user_cache() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache == '/')
    return std::filesystem::path(cache) / "finesweep";
  if (const char* home = std::getenv("HOME"); home && *home == '/')
    return std::filesystem::path(home) / ".cache" / "finesweep";
  return {};
}

}  // namespace finesweep
