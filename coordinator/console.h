#pragma once

#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "jobs/json.h"

namespace finesweep::coordinator {

// What a running sweep says, as JSON records. `event` is one of
//   sweep_started   {sweep, directory, trials, jobs, done, workers}
//   worker_joined / worker_lost   {worker, host, device, reason}
//   attempt_started {job, title, attempt, worker, pack?}   attempt_ended {job, title, attempt, reason, error}
//   job_succeeded   {job, title, seconds, done, jobs}  job_failed {job, title, error}  job_cancelled {job, title}
//   sweep_ended     {state, exit_code, succeeded, failed, pending, report}
// and, not kept in events.jsonl,
//   progress        {running: [{job, title, done, total, phase, loss?, pack?}], done, jobs, seconds_left?}
//   text            {text}: to be printed as it is
//   gave_up         {exit_code, message}: from a coordinator that could not begin, to its supervisor
// `pack`: with how many jobs together, where there are several. A pack is one entry of `running`, that of the
// member which has most before it.

enum class ConsoleMode {
  json,   // one object a line, without the passing ones where a person asked for it (--json)
  wire,   // the same with all of them: from rank 0 to the supervising process
  lines,  // one line for each event
  bars,   // progress bars, on a terminal
};

/// Renders records on standard output. Not for several threads.
class Console {
 public:
  explicit Console(ConsoleMode mode, std::FILE* out = stdout);
  ~Console();
  void show(const Json& record);

 private:
  void line(const std::string& text);
  void draw_bars();
  void clear_bars();

  ConsoleMode mode_;
  std::FILE* out_;
  Json latest_progress_;
  int bar_lines_ = 0;
  std::chrono::steady_clock::time_point drawn_{};
};

/// The line a person reads for an event; empty where there is nothing worth a line.
std::string event_line(const Json& record);

/// "1:02:03", "4:05".
std::string format_duration(double seconds);

/// Progress bars for the latest `progress` record, each line at most `width` columns.
std::vector<std::string> bar_lines(const Json& progress, int width);

}  // namespace finesweep::coordinator
