#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "reports/charts.h"

namespace finesweep::reports {

struct PlotOptions {
  /// Looked for in PATH.
  std::string program = "gnuplot";
  /// For all plots together; what is not drawn by then is left out.
  std::chrono::milliseconds deadline{10'000};
};

/// What became of the plots.
struct PlotFiles {
  /// Ids of the charts and maps whose SVG is there.
  std::vector<std::string> drawn;
  /// Why there are others that are not; empty where there are none.
  std::string trouble;
};

/// Draws the charts that are to be plotted: `folder`/ID.svg, and beside it the script ID.gnuplot that makes it.
/// Removes plots of an earlier report. An Error where the folder cannot be written; a gnuplot that is missing or
/// fails is no error. Blocks while gnuplot runs, some 20 ms a plot.
Result<PlotFiles> write_plots(const Charts& charts, const std::filesystem::path& folder,
                              const PlotOptions& options = {});

}  // namespace finesweep::reports
