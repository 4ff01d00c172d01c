#pragma once

#include <chrono>

namespace finesweep::coordinator {

/// Coordinator time: since an arbitrary start, never running backwards. The reactor has no clock; it is told.
using Instant = std::chrono::nanoseconds;
using Duration = std::chrono::nanoseconds;

/// What the driver tells the reactor.
inline Instant now() {
  return std::chrono::steady_clock::now().time_since_epoch();
}

}  // namespace finesweep::coordinator
