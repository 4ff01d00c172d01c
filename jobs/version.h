#pragma once

#include <string_view>

namespace finesweep {

/// The program's version; the same as in the root CMakeLists.txt.
inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace finesweep
