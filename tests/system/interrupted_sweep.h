#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/system/sweep_process.h"

namespace finesweep::tests {

/// A small real sweep that is run again and again, each life interrupted, until one comes to its end; after each
/// life and at the end what is promised is checked with GoogleTest's expectations:
///
///   - 5 s after the interruption no process is left; where a runner alone died, that one;
///   - a life ends early for no other reason than the interruption;
///   - what was recorded stays recorded; no job has two results;
///   - 10 s after its start a life goes on with the sweep;
///   - results.csv is the one of a run that nobody disturbed.
class InterruptedSweep {
 public:
  struct Options {
    /// Started as `finesweep run`, which starts mpirun itself; else by mpirun.
    bool supervised = false;
    int workers = 1;
    /// FINESWEEP_CRASH_AT (jobs/crash_point.h) of every life; each point fires once.
    std::string crash_at;
    /// In the first life a process chosen at random is killed so long after the start.
    std::optional<std::chrono::milliseconds> kill_after;
    unsigned seed = 0;
  };

  /// `undisturbed`: results_of() a run of the same sweep.
  InterruptedSweep(const Workspace& workspace, std::filesystem::path sweep, std::string undisturbed)
      : workspace_(workspace), sweep_(std::move(sweep)), undisturbed_(std::move(undisturbed)) {}

  /// `out` is a name below the workspace. Returns the crash points that fired.
  std::set<std::string> run(const std::string& out, const Options& options);

 private:
  enum class Ended { by_itself, interrupted };
  Ended live(const Options& options, bool may_kill);
  void watch_interruption(const std::string& victim, pid_t pid, const Process& life);
  std::optional<std::pair<std::string, pid_t>> new_mark();
  void check_record();
  void check_end();

  const Workspace& workspace_;
  std::filesystem::path sweep_;
  std::string undisturbed_;

  std::filesystem::path run_, marks_;
  std::set<std::string> fired_;
  std::string recorded_;                // events.jsonl as the last life left it
  std::vector<std::int64_t> begun_ms_;  // when each life began
  std::mt19937 random_;
  std::string last_output_;
};

}  // namespace finesweep::tests
