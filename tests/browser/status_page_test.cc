// The page of a running sweep in a real browser: the token opens it, what is running is shown, and hostile names
// are text. Skipped where there is no Chromium.

#include "coordinator/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/files.h"
#include "storage/status_file.h"
#include "tests/browser/browser.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(StatusPageInBrowser, shows_what_each_worker_does_and_takes_no_name_for_markup) {
  SKIP_WITHOUT_BROWSER("the page of a running sweep");
  const storage::TemporaryFolder folder;
  const storage::RunDirectory run(folder.path());
  ASSERT_TRUE(run.create().ok());
  storage::StatusSnapshot status;
  status.sweep = "<img src=x onerror=\"document.title='carried out'\">";
  status.jobs = {.pending = 5, .running = 2, .succeeded = 3};
  status.trials = {.pending = 4, .succeeded = 1};
  status.host = "a-host";
  status.seconds_left = 3725;
  storage::StatusSnapshot::Worker busy, idle;
  busy.rank = 1;
  busy.host = idle.host = "a-host";
  busy.device = "cuda:0";
  busy.attempt = AttemptKey{*JobId::parse(std::string(32, 'a')), 1};
  busy.title = "lora r8 </script><script>document.title='carried out'</script>";
  busy.progress = {30, 120, "training", 0.6931};
  busy.pack = 3;
  idle.rank = 2;
  idle.device = "cuda:1";
  status.workers = {busy, idle};
  ASSERT_TRUE(storage::write_status(run.status_file(), status).ok());
  ASSERT_TRUE(storage::write_file_atomically(run.reports() / "report.html", "the report").ok());

  const auto page = OpenStatusPage::open(run, {});
  ASSERT_TRUE(page.ok()) << page.error().message;
  const std::string dom = tests::loaded_page((*page)->ticket().url);
  EXPECT_THAT(dom, HasSubstr("3 of 10 succeeded, 2 running, 5 pending"));
  EXPECT_THAT(dom, HasSubstr("1 of 5 succeeded, 4 pending"));
  EXPECT_THAT(dom, HasSubstr("about 1:02:05 left"));
  EXPECT_THAT(dom, HasSubstr(" and 2 more in a pack"));
  EXPECT_THAT(dom, HasSubstr("30 of 120"));
  EXPECT_THAT(dom, HasSubstr("<td>0.6931</td>"));
  EXPECT_THAT(dom, HasSubstr("<td>cuda:1</td><td>idle</td>"));
  EXPECT_THAT(dom, HasSubstr("&lt;img src=x onerror"));
  EXPECT_THAT(dom, Not(HasSubstr("<img")));
  EXPECT_THAT(dom, Not(HasSubstr("<title>carried out")));
  EXPECT_THAT(dom, HasSubstr("<p id=\"report\">")) << "the link is there once there is a report";

  EXPECT_THAT(tests::loaded_page("http://127.0.0.1:" + std::to_string((*page)->ticket().port) + "/"),
              HasSubstr("This page wants its token"));
}

}  // namespace
}  // namespace finesweep::coordinator
