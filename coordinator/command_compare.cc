#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <set>
#include <utility>

#include "coordinator/commands.h"
#include "coordinator/fail.h"
#include "coordinator/run_results.h"
#include "reports/merge.h"
#include "reports/report.h"

namespace finesweep::coordinator {

namespace {

namespace fs = std::filesystem;

/// The folders, each once.
std::vector<storage::RunDirectory> distinct(const std::vector<fs::path>& directories) {
  std::vector<storage::RunDirectory> runs;
  std::set<fs::path> known;
  for (const fs::path& directory : directories) {
    std::error_code failure;
    const fs::path canonical = fs::weakly_canonical(directory, failure);
    if (known.insert(failure ? directory : canonical).second) runs.emplace_back(directory);
  }
  return runs;
}

/// The sweeps' names; where they do not tell the sweeps apart, those of their folders; where these do not either,
/// paths.
std::vector<std::string> names_of(const std::vector<storage::RunDirectory>& runs,
                                  const std::vector<reports::RunData>& data) {
  const auto tells_apart = [](const std::vector<std::string>& names) {
    return std::set<std::string>(names.begin(), names.end()).size() == names.size();
  };
  std::vector<std::string> names, folders, paths;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const fs::path path = runs[i].path().lexically_normal();
    names.push_back(data[i].plan.name);
    folders.push_back((path.has_filename() ? path : path.parent_path()).filename().string());
    paths.push_back(path.string());
  }
  return tells_apart(names) ? names : tells_apart(folders) ? folders : paths;
}

}  // namespace

int compare_command(const CompareOptions& options) {
  const auto formats = reports::parse_formats(options.formats);
  if (!formats) return fail(2, formats.error().message);
  if (options.out.empty() && !options.formats.empty() && formats->size() > 1)
    return fail(2, "several formats need a folder: --out DIR");
  const std::vector<storage::RunDirectory> runs = distinct(options.directories);
  std::string wrong;
  for (const auto& run : runs)
    if (const Status held = check_holds_run(run); !held)
      wrong += (wrong.empty() ? "" : "\nfinesweep: ") + held.error().message;
  if (!wrong.empty()) return fail(2, wrong);
  std::vector<reports::RunData> data;
  for (const auto& run : runs) {
    auto read = read_run_results(run);
    if (!read) return fail(4, read.error().message);
    data.push_back(std::move(*read));
  }
  const std::vector<std::string> names = names_of(runs, data);
  std::vector<reports::NamedRun> named;
  for (std::size_t i = 0; i < runs.size(); ++i) named.push_back({names[i], std::move(data[i])});
  const auto merged = reports::merge_runs(std::move(named), {.metric = options.metric});
  if (!merged) return fail(2, merged.error().message);
  if (options.out.empty()) {
    std::cout << reports::report_text(*merged,
                                      options.formats.empty() ? reports::Format::markdown : *formats->begin());
    return 0;
  }
  if (const Status written = reports::write_reports(*merged, options.out, *formats); !written)
    return fail(4, written.error().message);
  std::cout << reports::terminal_table(*merged) << "\nwritten to " << options.out.string() << "\n";
  return 0;
}

}  // namespace finesweep::coordinator
