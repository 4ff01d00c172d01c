// report.html in a real browser: the charts are drawn, nothing fails, and hostile text is not carried out. Skipped
// where there is no Chromium: scripts/setup does not install one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <regex>

#include "reports/report.h"
#include "storage/files.h"
#include "tests/reports/sample_runs.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::reports {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

/// FINESWEEP_BROWSER, else a Chromium in PATH; empty: there is none.
std::string browser() {
  if (const char* chosen = std::getenv("FINESWEEP_BROWSER")) return chosen;
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
    if (std::system(("command -v " + std::string(name) + " >/dev/null 2>&1").c_str()) == 0) return name;
  return "";
}

#define SKIP_WITHOUT_BROWSER() \
  if (browser().empty())       \
  GTEST_SKIP() << "report.html is NOT tested in a browser: install chromium, or set FINESWEEP_BROWSER"

/// The page after its scripts have run.
std::string loaded(const RunData& data) {
  const storage::TemporaryFolder folder;
  EXPECT_TRUE(write_reports(data, folder.path(), {Format::html}).ok());
  // No name in the command comes from the data.
  const std::string command =
      browser() +
      " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --virtual-time-budget=3000"
      " --window-size=1280,2400 --user-data-dir=" +
      (folder / "profile").string() + " --dump-dom file://" + (folder / "report.html").string() + " 2>" +
      (folder / "errors").string();
  std::string dom;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  std::array<char, 65536> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) dom.append(buffer.data(), n);
  EXPECT_EQ(pclose(pipe), 0) << *storage::read_file(folder / "errors");
  return dom;
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
  SKIP_WITHOUT_BROWSER();
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
  SKIP_WITHOUT_BROWSER();
  const std::string dom = without_scripts(loaded(grid_run()));
  EXPECT_THAT(dom, HasSubstr("data-errors=\"0\""));
  EXPECT_THAT(dom, HasSubstr("data-cells=\"23\""));
  EXPECT_EQ(count(dom, "style=\"background: rgb("), 23u);
}

TEST(BrowserPage, does_not_carry_hostile_text_out) {
  SKIP_WITHOUT_BROWSER();
  const std::string dom = loaded(hostile_run());
  EXPECT_THAT(dom, HasSubstr("data-errors=\"0\""));
  EXPECT_THAT(without_scripts(dom), Not(HasSubstr("<img")));
  EXPECT_THAT(dom.substr(0, dom.find("<head")), Not(HasSubstr("data-pwned")));
  EXPECT_EQ(count(without_scripts(dom), "data-drawn=\"true\""),
            count(without_scripts(dom), "<canvas role=\"img\""));
}

}  // namespace
}  // namespace finesweep::reports
