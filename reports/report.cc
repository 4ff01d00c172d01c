#include "reports/report.h"

#include <system_error>
#include <utility>
#include <vector>

#include "reports/analysis.h"
#include "reports/csv.h"
#include "reports/json_report.h"
#include "reports/markdown.h"
#include "storage/files.h"

namespace finesweep::reports {

Status write_reports(const RunData& data, const std::filesystem::path& directory, const std::set<Format>& formats) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) return Error{"cannot create " + directory.string() + ": " + failure.message()};
  const Analysis analysis = analyze(data);
  std::vector<std::pair<const char*, std::string>> files;
  if (formats.contains(Format::csv)) {
    files.emplace_back("results.csv", results_csv(analysis));
    files.emplace_back("summary.csv", summary_csv(analysis));
    files.emplace_back("history.csv", history_csv(analysis));
  }
  if (formats.contains(Format::json)) files.emplace_back("report.json", json_report(analysis));
  if (formats.contains(Format::markdown)) files.emplace_back("report.md", markdown_report(analysis));
  for (const auto& [name, text] : files)
    if (Status written = storage::write_file_atomically(directory / name, text); !written) return written;
  return {};
}

}  // namespace finesweep::reports
