#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "jobs/result.h"

namespace finesweep::slurm {

struct CommandResult {
  int exit_code = 0;   // 128 + signal where it was killed
  std::string output;  // standard output
  std::string errors;  // standard error
};

/// Runs a program that is looked for in PATH, without a shell, and waits for it; standard input is empty. The
/// Error: it is not there, or did not end in time and was killed.
Result<CommandResult> run_command(const std::vector<std::string>& command,
                                  std::chrono::milliseconds deadline = std::chrono::seconds(20));

}  // namespace finesweep::slurm
