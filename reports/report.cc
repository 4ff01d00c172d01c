#include "reports/report.h"

#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "reports/analysis.h"
#include "reports/charts.h"
#include "reports/csv.h"
#include "reports/html.h"
#include "reports/json_report.h"
#include "reports/markdown.h"
#include "storage/files.h"

namespace finesweep::reports {

Result<std::set<Format>> parse_formats(const std::string& text) {
  if (text.empty()) return kAllFormats;
  std::set<Format> formats;
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "md")
      formats.insert(Format::markdown);
    else if (word == "csv")
      formats.insert(Format::csv);
    else if (word == "html")
      formats.insert(Format::html);
    else if (word == "json")
      formats.insert(Format::json);
    else
      return Error{"--format " + text + ": '" + word + "' is not one of md, csv, html, json"};
  }
  return formats;
}

Status write_reports(const RunData& data, const std::filesystem::path& directory, const std::set<Format>& formats,
                     const PlotOptions& plots) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) return Error{"cannot create " + directory.string() + ": " + failure.message()};
  const Analysis analysis = analyze(data);
  const Charts charts = charts_of(analysis);
  std::vector<std::pair<const char*, std::string>> files;
  if (formats.contains(Format::csv)) {
    files.emplace_back("results.csv", results_csv(analysis));
    files.emplace_back("summary.csv", summary_csv(analysis));
    files.emplace_back("history.csv", history_csv(analysis));
  }
  if (formats.contains(Format::json)) files.emplace_back("report.json", json_report(analysis));
  if (formats.contains(Format::html)) files.emplace_back("report.html", html_report(analysis, charts));
  if (formats.contains(Format::markdown)) {
    const Result<PlotFiles> drawn = write_plots(charts, directory / "plots", plots);
    if (!drawn) return drawn.error();
    files.emplace_back("report.md", markdown_report(analysis, charts, *drawn));
  }
  for (const auto& [name, text] : files)
    if (Status written = storage::write_file_atomically(directory / name, text); !written) return written;
  return {};
}

std::string report_text(const RunData& data, Format format) {
  const Analysis analysis = analyze(data);
  switch (format) {
    case Format::markdown:
      return markdown_comparison(analysis);
    case Format::csv:
      return summary_csv(analysis);
    case Format::html:
      return html_report(analysis, charts_of(analysis));
    case Format::json:
      return json_report(analysis);
  }
  return "";
}

}  // namespace finesweep::reports
