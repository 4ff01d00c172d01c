#include "coordinator/run_results.h"

#include <chrono>
#include <system_error>

#include "coordinator/control_call.h"
#include "coordinator/unix_time.h"
#include "reports/json_report.h"
#include "storage/files.h"
#include "storage/status_file.h"
#include "storage/store.h"

namespace finesweep::coordinator {

bool is_running(const storage::RunDirectory& run) {
  const auto status = storage::read_status(run.status_file());
  return status && status->state == storage::StatusSnapshot::State::running &&
         !storage::looks_dead(*status, unix_ms());
}

Result<bool> ask_for_reports(const storage::RunDirectory& run) {
  const auto answer = ask_coordinator(run, "report", Json::object(), std::chrono::minutes(30));
  if (!answer) return answer.error();
  if (!*answer) return false;
  if ((*answer)->value("ok", false)) return true;
  return Error{(*answer)->value("error", "the coordinator could not write the report")};
}

Status check_holds_run(const storage::RunDirectory& run) {
  std::error_code failure;
  const std::string path = run.path().string();
  if (!std::filesystem::exists(run.path(), failure)) return Error{path + ": there is no such folder"};
  if (!std::filesystem::is_directory(run.path(), failure))
    return Error{path + ": a run directory is expected, such as runs/NAME, and this is a file"};
  if (!run.holds_run()) return Error{path + ": no sweep was run here (there is no finesweep.db)"};
  return {};
}

Result<reports::RunData> read_run_results(const storage::RunDirectory& run) {
  const std::string path = run.path().string();
  const auto at_path = [&](const Error& error) { return Error{path + ": " + error.message}; };
  const auto written = is_running(run) ? ask_for_reports(run) : false;
  if (!written) return at_path(written.error());
  if (*written) {
    const auto text = storage::read_file(run.reports() / "report.json");
    if (!text) return text.error();
    auto data = reports::parse_json_report(*text);
    if (!data) return at_path(data.error());
    return data;
  }
  auto store = storage::Store::open_read_only(run.path());
  if (!store) return at_path(store.error());
  auto data = reports::read_run_data(*store, run);
  if (!data) return at_path(data.error());
  return data;
}

}  // namespace finesweep::coordinator
