#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "jobs/result.h"
#include "reports/run_data.h"

namespace finesweep::reports {

enum class Format {
  markdown,  // report.md
  csv,       // results.csv, summary.csv, history.csv
  json,      // report.json
};
inline const std::set<Format> kAllFormats{Format::markdown, Format::csv, Format::json};

/// Writes the reports into `directory`, which is made where it is not there; each file appears whole or not at all.
Status write_reports(const RunData& data, const std::filesystem::path& directory,
                     const std::set<Format>& formats = kAllFormats);

/// The comparison table for the end of `finesweep run`, with the best configuration and the warnings: at most
/// `width` columns, lines end with a newline.
std::string terminal_table(const RunData& data, std::size_t width = 100);

}  // namespace finesweep::reports
