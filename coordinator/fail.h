#pragma once

#include <iostream>
#include <string>

namespace finesweep::coordinator {

/// Tells the user on standard error what is wrong; the exit code, for a command to return.
inline int fail(int exit_code, const std::string& message) {
  std::cerr << "finesweep: " << message << "\n";
  return exit_code;
}

}  // namespace finesweep::coordinator
