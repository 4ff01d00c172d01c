#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "jobs/result.h"
#include "reports/plot_files.h"
#include "reports/run_data.h"

namespace finesweep::reports {

enum class Format {
  markdown,  // report.md and the plots/ that it shows
  csv,       // results.csv, summary.csv, history.csv
  html,      // report.html
  json,      // report.json
};
inline const std::set<Format> kAllFormats{Format::markdown, Format::csv, Format::html, Format::json};

/// "md,csv,html,json", or some of these → formats; empty text: all. The Error names what is none of them.
Result<std::set<Format>> parse_formats(const std::string& text);

/// Writes the reports into `directory`, which is made where it is not there; each file appears whole or not at all.
/// Where gnuplot is missing or fails, report.md says so in place of the plots.
Status write_reports(const RunData& data, const std::filesystem::path& directory,
                     const std::set<Format>& formats = kAllFormats, const PlotOptions& plots = {});

/// One report as text: of the CSV files summary.csv, of Markdown what stands before the details.
std::string report_text(const RunData& data, Format format);

/// The comparison table for the end of `finesweep run`, with the best configuration and the warnings: at most
/// `width` columns, lines end with a newline.
std::string terminal_table(const RunData& data, std::size_t width = 100);

}  // namespace finesweep::reports
