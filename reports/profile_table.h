#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/analysis.h"

namespace finesweep::reports {

/// Where the time went in one step and mode, over the configurations that were profiled. Text is not escaped.
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

/// Milliseconds, shares and calls are means over the repeats; groups by falling time.
std::vector<ProfileTable> profile_tables(const Analysis& analysis);

inline constexpr const char* kProfileNote =
    "Milliseconds by group of operations, with their share of the whole and how often they were called; means over "
    "repeats.";

}  // namespace finesweep::reports
