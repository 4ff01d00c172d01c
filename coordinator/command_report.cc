#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/fail.h"
#include "coordinator/run_results.h"
#include "reports/report.h"

namespace finesweep::coordinator {

int report_command(const ReportOptions& options) {
  const auto formats = reports::parse_formats(options.formats);
  if (!formats) return fail(2, formats.error().message);
  const storage::RunDirectory run(options.directory);
  if (const Status held = check_holds_run(run); !held) return fail(2, held.error().message);
  const auto asked = is_running(run) ? ask_for_reports(run) : false;
  if (!asked) return fail(4, asked.error().message);
  if (!*asked) {
    const auto data = read_run_results(run);
    if (!data) return fail(4, data.error().message);
    if (const Status written = reports::write_reports(*data, run.reports(), *formats); !written)
      return fail(4, written.error().message);
    std::cout << reports::terminal_table(*data) << "\n";
  }
  std::cout << "written to " << run.reports().string() << "\n";
  return 0;
}

}  // namespace finesweep::coordinator
