#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace finesweep::worker {

struct JoinedWorkerOptions {
  /// join.json of a run directory, or a copy of it.
  std::filesystem::path ticket;
  std::string host;    // this one's name
  std::string device;  // "cpu" or "cuda:<index>"
  std::string runner;  // the program
  /// How long a coordinator that is not there (any more) is looked for.
  std::chrono::milliseconds patience = std::chrono::seconds(120);
};

/// A worker that joins a running sweep: an ordinary agent whose link is TCP. Where the coordinator goes away it
/// reads the ticket anew and joins the next one. Ctrl-C and SIGTERM: what runs writes a checkpoint, then the worker
/// says goodbye; again: it ends at once.
///
/// Returns the exit code: 0 the sweep has ended or the worker was told to leave, 2 the ticket is of no use, 3 ended
/// at once, 4 no coordinator was found in time. Main thread only: runners end with it.
int work_joined(const JoinedWorkerOptions& options);

}  // namespace finesweep::worker
