#pragma once

#include <chrono>
#include <cstdint>

namespace finesweep::coordinator {

/// Milliseconds since 1970, for what is recorded; decisions use coordinator/instant.h.
inline std::int64_t unix_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

}  // namespace finesweep::coordinator
