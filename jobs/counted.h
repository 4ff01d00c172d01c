#pragma once

#include <cstdint>
#include <string>

namespace finesweep {

/// "1 trial", "2 trials".
inline std::string counted(std::int64_t number, const std::string& noun) {
  return std::to_string(number) + " " + noun + (number == 1 ? "" : "s");
}

}  // namespace finesweep
