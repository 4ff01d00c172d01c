#pragma once

#include <string_view>

namespace finesweep {

/// The program's version; the same as in the root CMakeLists.txt.
inline constexpr std::string_view kVersion = "0.1.0";

/// Part of every job id and manifest. Raised when the numbers that a job brings back change, so that results of an
/// older finesweep are not taken for ours.
inline constexpr int kResultVersion = 1;

}  // namespace finesweep
