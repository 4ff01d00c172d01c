#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/plan.h"
#include "sweeps/diagnostics.h"
#include "sweeps/files.h"

namespace finesweep::sweeps {

struct SweepRequest {
  /// As the user named it; messages show it so.
  std::filesystem::path file;
  /// "finetune.epochs=1": as if the file had been written so, for every configuration.
  std::vector<std::string> overrides;
  /// Relative paths in overrides start here; empty: the current folder.
  std::filesystem::path override_base;
  /// More trials than this are refused.
  std::size_t most_trials = 1'000'000;
};

struct ParsedSweep {
  Plan plan;
  /// For the run directory: the file with overrides applied and paths absolute. Parses to the same plan from
  /// anywhere.
  std::string resolved_text;
};

struct SweepParse {
  /// Absent where there is an error.
  std::optional<ParsedSweep> sweep;
  std::vector<Diagnostic> diagnostics;
};

/// Reads and checks a sweep file and everything that it names. Starts nothing and writes nothing.
SweepParse parse_sweep(const SweepRequest& request, SweepFiles& files);

/// The same for a text that stands in no file yet; relative paths start at the folder of `request.file`.
SweepParse parse_sweep_text(std::string_view text, const SweepRequest& request, SweepFiles& files);

}  // namespace finesweep::sweeps
