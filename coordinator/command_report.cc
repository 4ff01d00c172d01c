#include <chrono>
#include <iostream>
#include <set>
#include <sstream>
#include <thread>

#include "coordinator/commands.h"
#include "coordinator/unix_time.h"
#include "reports/report.h"
#include "storage/control.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"
#include "storage/store.h"

namespace finesweep::coordinator {

namespace {

constexpr std::chrono::seconds kAnswerDeadline{15};

/// "md,csv" → formats; empty: all.
Result<std::set<reports::Format>> parse_formats(const std::string& text) {
  if (text.empty()) return reports::kAllFormats;
  std::set<reports::Format> formats;
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "md")
      formats.insert(reports::Format::markdown);
    else if (word == "csv")
      formats.insert(reports::Format::csv);
    else if (word == "json")
      formats.insert(reports::Format::json);
    else
      return Error{"--format " + text + ": '" + word + "' is not one of md, csv, json"};
  }
  return formats;
}

int fail(int exit_code, const std::string& message) {
  std::cerr << "finesweep: " << message << "\n";
  return exit_code;
}

bool is_running(const storage::RunDirectory& run) {
  const auto status = storage::read_status(run.status_file());
  const auto time_ms = unix_ms();
  return status && status->state == storage::StatusSnapshot::State::running &&
         !storage::looks_dead(*status, time_ms);
}

/// The coordinator alone reads the database of a running sweep: it is asked to write the tables.
Status ask_coordinator(const storage::RunDirectory& run) {
  const auto id = storage::put_request(run.control(), "report", Json::object());
  if (!id) return id.error();
  const auto until = std::chrono::steady_clock::now() + kAnswerDeadline;
  while (std::chrono::steady_clock::now() < until) {
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

}  // namespace

int report_command(const ReportOptions& options) {
  const auto formats = parse_formats(options.formats);
  if (!formats) return fail(2, formats.error().message);
  const storage::RunDirectory run(options.directory);
  if (!run.holds_run())
    return fail(2, options.directory.string() + ": no sweep was run here (there is no finesweep.db)");
  if (is_running(run)) {
    if (const Status asked = ask_coordinator(run); !asked) return fail(4, asked.error().message);
  } else {
    auto store = storage::Store::open_read_only(run.path());
    if (!store) return fail(4, store.error().message);
    auto data = reports::read_run_data(*store);
    if (!data) return fail(4, data.error().message);
    if (const Status written = reports::write_reports(*data, run.reports(), *formats); !written)
      return fail(4, written.error().message);
    std::cout << reports::terminal_table(*data) << "\n";
  }
  std::cout << "written to " << run.reports().string() << "\n";
  return 0;
}

}  // namespace finesweep::coordinator
