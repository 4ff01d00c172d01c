#include "coordinator/run_results.h"

#include <chrono>
#include <system_error>
#include <thread>

#include "coordinator/unix_time.h"
#include "reports/json_report.h"
#include "storage/control.h"
#include "storage/files.h"
#include "storage/status_file.h"
#include "storage/store.h"

namespace finesweep::coordinator {

namespace {

/// A coordinator that lives may need longer, for a large sweep.
constexpr std::chrono::seconds kAnswerDeadline{15};
constexpr std::chrono::minutes kWritingDeadline{30};

}  // namespace

bool is_running(const storage::RunDirectory& run) {
  const auto status = storage::read_status(run.status_file());
  return status && status->state == storage::StatusSnapshot::State::running &&
         !storage::looks_dead(*status, unix_ms());
}

Status ask_for_reports(const storage::RunDirectory& run) {
  const auto id = storage::put_request(run.control(), "report", Json::object());
  if (!id) return id.error();
  const auto asked = std::chrono::steady_clock::now();
  const auto waited = [asked] { return std::chrono::steady_clock::now() - asked; };
  while (waited() < kAnswerDeadline || (waited() < kWritingDeadline && is_running(run))) {
    auto answer = storage::take_answer(run.control(), *id);
    if (!answer) return answer.error();
    if (*answer) {
      if ((*answer)->value("ok", false)) return {};
      return Error{(*answer)->value("error", "the coordinator could not write the report")};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  static_cast<void>(storage::withdraw_request(run.control(), *id));
  return Error{"the running sweep did not answer in time; is it alive? `finesweep status " + run.path().string() +
               "`"};
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
  if (is_running(run)) {
    if (const Status asked = ask_for_reports(run); !asked) return at_path(asked.error());
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
