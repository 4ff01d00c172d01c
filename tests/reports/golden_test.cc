// The reports of made-up runs against files in tests/reports/golden/. After a wanted change, write them anew with
//
//   FINESWEEP_WRITE_GOLDEN=1 reports_tests --gtest_filter='Golden.*'
//
// and read the difference.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "reports/analysis.h"
#include "reports/charts.h"
#include "reports/csv.h"
#include "reports/gnuplot_script.h"
#include "reports/json_report.h"
#include "reports/markdown.h"
#include "reports/report.h"
#include "storage/files.h"
#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

void expect_golden(const std::string& name, const std::string& text) {
  const std::filesystem::path path =
      std::filesystem::path(FINESWEEP_SOURCE_DIR) / "tests" / "reports" / "golden" / name;
  if (std::getenv("FINESWEEP_WRITE_GOLDEN") != nullptr) {
    std::filesystem::create_directories(path.parent_path());
    ASSERT_TRUE(storage::write_file_atomically(path, text).ok());
  }
  const Result<std::string> golden = storage::read_file(path);
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  EXPECT_EQ(text, *golden);
}

void expect_all_golden(const std::string& folder, const RunData& data) {
  const Analysis analysis = analyze(data);
  expect_golden(folder + "/results.csv", results_csv(analysis));
  expect_golden(folder + "/summary.csv", summary_csv(analysis));
  expect_golden(folder + "/history.csv", history_csv(analysis));
  expect_golden(folder + "/report.json", json_report(analysis));
  expect_golden(folder + "/report.md", markdown_report(analysis));
  expect_golden(folder + "/terminal.txt", terminal_table(data));
}

TEST(Golden, a_run_with_shared_jobs_failures_and_pending_trials) {
  expect_all_golden("mixed", mixed_run());
}

TEST(Golden, a_run_with_one_repeat_on_two_devices) {
  expect_all_golden("single_repeat", single_repeat_run());
}

TEST(Golden, a_run_that_has_no_results_yet) {
  RunData data = mixed_run();
  data.jobs.clear();
  expect_all_golden("empty", data);
}

TEST(Golden, the_scripts_of_plots_and_the_report_that_shows_them) {
  const RunData study = study_run(), grid = grid_run();
  const Charts charts = charts_of(analyze(study)), maps = charts_of(analyze(grid));
  PlotFiles drawn;
  for (const Chart& chart : charts.charts) {
    if (!chart.is_plotted) continue;
    drawn.drawn.push_back(chart.id);
    expect_golden("study/" + chart.id + ".gnuplot", gnuplot_script(chart));
  }
  expect_golden("study/report.md", markdown_report(analyze(study), charts, drawn));
  expect_golden("grid/heat_map.gnuplot", gnuplot_script(maps.heat_maps.at(0)));
}

}  // namespace
}  // namespace finesweep::reports
