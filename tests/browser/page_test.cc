// report.html in a real browser: the charts are drawn, nothing fails, and hostile text is not carried out. Skipped
// where there is no Chromium: scripts/setup does not install one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "reports/report.h"
#include "tests/browser/browser.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::reports {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

/// The page after its scripts have run.
std::string loaded(const RunData& data) {
  const storage::TemporaryFolder folder;
  EXPECT_TRUE(write_reports(data, folder.path(), {Format::html}).ok());
  return tests::loaded_page("file://" + (folder / "report.html").string());
}

/// Scripts left out: they name what the tests look for.
std::string without_scripts(std::string dom) {
  for (std::size_t at = dom.find("<script"); at != std::string::npos; at = dom.find("<script", at))
    dom.erase(at, dom.find("</script>", at) + 9 - at);
  return dom;
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(BrowserPage, draws_a_chart_in_each_figure_without_an_error) {
  SKIP_WITHOUT_BROWSER("report.html");
  const std::string dom = without_scripts(loaded(study_run()));
  EXPECT_THAT(dom, HasSubstr("data-errors=\"0\""));
  EXPECT_THAT(dom, HasSubstr("data-figures=\"4\""));
  EXPECT_EQ(count(dom, "<canvas role=\"img\""), 4u);
  EXPECT_EQ(count(dom, "data-drawn=\"true\""), 4u) << "each has pixels";
  EXPECT_THAT(dom, HasSubstr("aria-label=\"test accuracy against finetune.rank\""));
  EXPECT_THAT(dom, HasSubstr("<option value=\"0\">training loss</option>"));
  EXPECT_GE(count(dom, "title=\"Sort by this column\""), 10u);
}

TEST(BrowserPage, shades_the_cells_of_heat_maps) {
  SKIP_WITHOUT_BROWSER("report.html");
  const std::string dom = without_scripts(loaded(grid_run()));
  EXPECT_THAT(dom, HasSubstr("data-errors=\"0\""));
  EXPECT_THAT(dom, HasSubstr("data-cells=\"23\""));
  EXPECT_EQ(count(dom, "style=\"background: rgb("), 23u);
}

TEST(BrowserPage, does_not_carry_hostile_text_out) {
  SKIP_WITHOUT_BROWSER("report.html");
  const std::string dom = loaded(hostile_run());
  EXPECT_THAT(dom, HasSubstr("data-errors=\"0\""));
  EXPECT_THAT(without_scripts(dom), Not(HasSubstr("<img")));
  EXPECT_THAT(dom.substr(0, dom.find("<head")), Not(HasSubstr("data-pwned")));
  EXPECT_EQ(count(without_scripts(dom), "data-drawn=\"true\""),
            count(without_scripts(dom), "<canvas role=\"img\""));
}

}  // namespace
}  // namespace finesweep::reports
