#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/analysis.h"

namespace finesweep::reports {

/// Where the time went in one step and mode, on the host or on the device, over the configurations that were
/// profiled. Text is not escaped.
struct ProfileTable {
  std::string title;  // "benchmark, forward (20 iterations)"
  std::vector<std::string> groups;
  struct Cell {
    std::string text;  // "1.20 (30 %, 10 calls)"; empty where the group does not occur
    std::optional<double> ms = {};
  };
  struct Row {
    std::string label;
    std::vector<Cell> cells;
  };
  std::vector<Row> rows;  // best configuration first
};

/// Milliseconds and calls are those of one iteration, and means over the repeats; groups by falling time.
std::vector<ProfileTable> profile_tables(const Analysis& analysis);

inline constexpr const char* kProfileNote =
    "Milliseconds of an iteration by group of operations, with their share of the whole and the calls of an "
    "iteration; "
    "means over repeats.";

}  // namespace finesweep::reports
