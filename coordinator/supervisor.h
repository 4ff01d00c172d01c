#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "coordinator/console.h"
#include "jobs/result.h"

namespace finesweep::coordinator {

/// Exit code of `finesweep exec-with-lifeline` where the program cannot be started, as of a shell's.
inline constexpr int kLauncherMissing = 127;

/// What `finesweep run` does when it was not started by an MPI launcher: it starts mpirun itself, shows what rank 0
/// says, passes signals on, and starts mpirun again where the sweep died under it (a killed rank kills the whole
/// MPI job), until the sweep has ended or three lives in a row brought nothing.
struct SupervisorOptions {
  std::filesystem::path program;  // this executable
  int workers = 1;
  /// Arguments of the ranks: "run", the sweep file, options.
  std::vector<std::string> arguments;
  std::filesystem::path run_directory;
};

/// Returns the sweep's exit code, which is what the coordinator wrote into status.json, not the launcher's.
/// Main thread only: mpirun ends when this thread does.
int supervise(const SupervisorOptions& options, Console& console);

}  // namespace finesweep::coordinator
