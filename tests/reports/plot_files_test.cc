#include "reports/plot_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "reports/gnuplot_script.h"
#include "reports/report.h"
#include "storage/files.h"
#include "tests/reports/markup.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::reports {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

bool has_gnuplot() {
  return std::system("command -v gnuplot >/dev/null 2>&1") == 0;
}
#define SKIP_WITHOUT_GNUPLOT() \
  if (!has_gnuplot()) GTEST_SKIP() << "gnuplot is not installed (scripts/setup installs it)"

fs::path script(const storage::TemporaryFolder& folder, const std::string& text) {
  const fs::path path = folder / "plotter";
  EXPECT_TRUE(storage::write_file_atomically(path, "#!/bin/sh\n" + text).ok());
  fs::permissions(path, fs::perms::owner_all);
  return path;
}

TEST(Plots, are_drawn_with_their_scripts_and_shown_in_the_report) {
  SKIP_WITHOUT_GNUPLOT();
  storage::TemporaryFolder folder;
  ASSERT_TRUE(write_reports(study_run(), folder.path()).ok());
  const std::string report = *storage::read_file(folder / "report.md");
  for (const char* id : {"test-accuracy-against-finetune-rank", "quality-against-memory", "quality-against-time",
                         "finetune-loss-by-epoch", "finetune-validation-accuracy-by-epoch"}) {
    const auto svg = storage::read_file(folder.path() / "plots" / (std::string(id) + ".svg"));
    ASSERT_TRUE(svg.ok()) << id;
    EXPECT_EQ(markup_trouble(*svg), "") << id;
    EXPECT_THAT(report, HasSubstr("](plots/" + std::string(id) + ".svg)"));
    EXPECT_TRUE(fs::exists(folder.path() / "plots" / (std::string(id) + ".gnuplot")));
  }
  EXPECT_FALSE(fs::exists(folder / "plots/.drawing"));
}

TEST(Plots, of_heat_maps_print_each_value_in_its_cell) {
  SKIP_WITHOUT_GNUPLOT();
  storage::TemporaryFolder folder;
  ASSERT_TRUE(write_reports(grid_run(), folder.path()).ok());
  const std::string svg =
      *storage::read_file(folder / "plots/benchmark-forward-ms-mean-by-batch-size-and-sequence-length.svg");
  EXPECT_EQ(markup_trouble(svg), "");
  for (const char* text : {"24.48", "sequence length (tokens)", "batch size", "quantize skip", "quantize run"})
    EXPECT_THAT(svg, HasSubstr(text));
}

TEST(Plots, of_an_earlier_report_go_away) {
  SKIP_WITHOUT_GNUPLOT();
  storage::TemporaryFolder folder;
  fs::create_directories(folder / "plots");
  ASSERT_TRUE(storage::write_file_atomically(folder / "plots/old.svg", "<svg/>").ok());
  ASSERT_TRUE(storage::write_file_atomically(folder / "plots/mine.txt", "kept").ok());
  ASSERT_TRUE(write_reports(study_run(), folder.path()).ok());
  EXPECT_FALSE(fs::exists(folder / "plots/old.svg"));
  EXPECT_TRUE(fs::exists(folder / "plots/mine.txt"));
}

TEST(Plots, hostile_text_stays_text) {
  SKIP_WITHOUT_GNUPLOT();
  storage::TemporaryFolder folder;
  const RunData data = hostile_run();
  const auto files = write_plots(charts_of(analyze(data)), folder / "plots");
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(files->trouble, "");
  EXPECT_THAT(files->drawn, Not(IsEmpty()));
  for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("pwned")) << "a label was carried out";
    if (entry.path().extension() != ".svg") continue;
    const std::string svg = *storage::read_file(entry.path());
    EXPECT_EQ(markup_trouble(svg), "") << entry.path();
    EXPECT_THAT(svg, Not(HasSubstr("<img"))) << entry.path();
    EXPECT_THAT(svg, Not(HasSubstr("&#0;"))) << entry.path();
    EXPECT_THAT(svg, Not(HasSubstr("]]>"))) << entry.path();
  }
  for (const char* name : {"pwned1", "pwned2", "pwned3", "pwned4", "pwned5"})
    EXPECT_FALSE(fs::exists(name)) << name;
}

TEST(Plots, without_gnuplot_the_report_says_so_and_the_scripts_are_there) {
  storage::TemporaryFolder folder;
  ASSERT_TRUE(write_reports(study_run(), folder.path(), kAllFormats, {.program = "no-such-gnuplot"}).ok());
  const std::string report = *storage::read_file(folder / "report.md");
  EXPECT_THAT(report, HasSubstr("no-such-gnuplot: No such file or directory"));
  EXPECT_THAT(report, Not(HasSubstr(".svg)")));
  EXPECT_TRUE(fs::exists(folder / "plots/quality-against-memory.gnuplot"));
  EXPECT_TRUE(fs::exists(folder / "report.html"));
}

TEST(Plots, a_gnuplot_that_fails_or_hangs_costs_the_plots_alone) {
  storage::TemporaryFolder folder;
  const RunData data = study_run();
  const Charts charts = charts_of(analyze(data));
  auto failed =
      write_plots(charts, folder / "a", {.program = script(folder, "echo no terminal svg >&2; exit 1\n")});
  ASSERT_TRUE(failed.ok());
  EXPECT_THAT(failed->trouble, HasSubstr("no terminal svg"));
  EXPECT_THAT(failed->drawn, IsEmpty());
  auto hung =
      write_plots(charts, folder / "b",
                  {.program = script(folder, "exec sleep 600\n"), .deadline = std::chrono::milliseconds(100)});
  ASSERT_TRUE(hung.ok());
  EXPECT_THAT(hung->trouble, HasSubstr("too long"));
}

TEST(GnuplotScript, quotes_what_could_end_a_string_or_a_line) {
  EXPECT_EQ(gnuplot_quoted("it's"), "'it’s'");
  EXPECT_EQ(gnuplot_quoted("'; system('x')"), "'’; system(’x’)'");
  EXPECT_EQ(gnuplot_quoted("a\nb\\"), "'a b\\'");
  EXPECT_EQ(gnuplot_quoted("R&D &#0;"), "'R&D & #0;'");
  EXPECT_EQ(gnuplot_quoted("\xff"), "'\xEF\xBF\xBD'");
}

TEST(GnuplotScript, leaves_out_what_nobody_could_tell_apart_and_says_so) {
  Chart chart;
  chart.id = "many";
  for (int i = 0; i < 12; ++i)
    chart.series.push_back({"series " + std::to_string(i), Chart::Style::line, i, {{0, 1.0 * i}, {1, 2.0 * i}}});
  chart.series.push_back({"level", Chart::Style::reference, 12, {{0, 5}, {1, 5}}});
  const std::string text = gnuplot_script(chart);
  EXPECT_THAT(text, HasSubstr("'series 9'"));
  EXPECT_THAT(text, Not(HasSubstr("'series 10'")));
  EXPECT_THAT(text, HasSubstr("'level'"));
  EXPECT_EQ(left_out_note(chart), "The first 10 of 12; all are in report.html.");
}

}  // namespace
}  // namespace finesweep::reports
