#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "jobs/plan.h"
#include "storage/run_directory.h"
#include "sweeps/sweep.h"

namespace finesweep::coordinator {

/// Parses a sweep file named on the command line, with its `--set` options, and prints what there is to say about
/// it on standard error. Absent where it has errors: exit code 2.
std::optional<sweeps::ParsedSweep> parse_sweep_file(const std::filesystem::path& file,
                                                    const std::vector<std::string>& overrides);

/// `out` absolute; where it is empty, runs/NAME.
std::filesystem::path run_directory_of(const std::filesystem::path& out, const Plan& plan);

/// Threads of each worker on a CPU: what the sweep says, else what the run began with. Absent: neither.
std::optional<int> chosen_threads(const storage::RunDirectory& run, const Plan& plan);

}  // namespace finesweep::coordinator
