#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "sweeps/sweep.h"

namespace finesweep::coordinator {

/// Parses a sweep file named on the command line, with its `--set` options, and prints what there is to say about
/// it on standard error. Absent where it has errors: exit code 2.
std::optional<sweeps::ParsedSweep> parse_sweep_file(const std::filesystem::path& file,
                                                    const std::vector<std::string>& overrides);

}  // namespace finesweep::coordinator
