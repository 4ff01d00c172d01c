#pragma once

#include <cstdint>

namespace finesweep::worker {

/// Values that a tensor of `count` takes where several lie in one piece of memory: each begins where vectors of any
/// kernel may.
inline std::int64_t room_of(std::int64_t count) {
  constexpr std::int64_t alignment = 64;
  return (count + alignment - 1) / alignment * alignment;
}

}  // namespace finesweep::worker
