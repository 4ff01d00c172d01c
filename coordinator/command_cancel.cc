#include <fmt/format.h>

#include <chrono>
#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/control_call.h"
#include "coordinator/fail.h"
#include "coordinator/run_results.h"
#include "coordinator/slurm_record.h"
#include "coordinator/unix_time.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

namespace {

using storage::StatusSnapshot;

constexpr std::chrono::seconds kPatience{15};

int not_running(const storage::RunDirectory& run) {
  if (const auto record = read_slurm_record(run); record && *record && waits_in_queue(run, **record))
    return fail(2,
                fmt::format("the sweep waits in Slurm's queue as job {0}: scancel {0}", (*record)->submitted_job));
  const auto status = storage::read_status(run.status_file());
  if (!status) return fail(2, run.path().string() + ": no sweep was run here");
  return fail(2, fmt::format("the sweep is not running ({}): there is nothing to cancel",
                             status->state == StatusSnapshot::State::running
                                 ? "its coordinator is dead"
                                 : std::string(storage::status_state_name(status->state))));
}

std::string name_of(const Json& trial) {
  const std::string label = trial.value("label", "");
  return trial.value("trial", "") + (label.empty() ? "" : " (" + label + ")");
}

int show(const Json& answer) {
  const auto each = [&](const char* list, const auto& text_of) {
    for (const Json& trial : answer.value(list, Json::array())) std::cout << text_of(trial) << "\n";
  };
  each("cancelled", [](const Json& trial) { return "cancelled " + name_of(trial); });
  each("over", [](const Json& trial) {
    return name_of(trial) + " is not cancelled: it has " +
           (trial.value("state", "") == "cancelled" ? "been cancelled before"
                                                    : trial.value("state", "") + " already");
  });
  each("shared", [](const Json& trial) {
    return name_of(trial) + " is not cancelled: other trials need all that is left of it";
  });
  for (const Json& trial : answer.value("unknown", Json::array()))
    std::cerr << "finesweep: " << trial.value("message", "") << "\n";
  return answer.value("ok", false) ? 0 : 2;
}

}  // namespace

int cancel_command(const CancelOptions& options) {
  const storage::RunDirectory run(options.directory);
  if (!is_running(run)) return not_running(run);
  const auto answer = ask_coordinator(run, "cancel", {{"trials", options.trials}}, kPatience);
  if (!answer) return fail(4, answer.error().message);
  if (!*answer) return not_running(run);
  if ((*answer)->contains("error")) return fail(4, (*answer)->value("error", ""));
  return show(**answer);
}

}  // namespace finesweep::coordinator
