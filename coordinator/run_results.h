#pragma once

#include <filesystem>

#include "jobs/result.h"
#include "reports/run_data.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

/// Whether a coordinator is at work on the run, from its status.json.
bool is_running(const storage::RunDirectory& run);

/// Has the coordinator of a running sweep write all reports: it alone reads the database. Waits for as long as
/// that lives, half an hour at most. Whether it did; false where it ended before.
Result<bool> ask_for_reports(const storage::RunDirectory& run);

/// An Error, with what to do, where no sweep was run in the folder.
Status check_holds_run(const storage::RunDirectory& run);

/// What a run has recorded, whether it has ended or not: from the database, or, of a running sweep, from the
/// report.json that its coordinator writes on request.
Result<reports::RunData> read_run_results(const storage::RunDirectory& run);

}  // namespace finesweep::coordinator
