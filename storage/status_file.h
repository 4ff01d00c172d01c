#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "jobs/ids.h"
#include "jobs/json.h"
#include "jobs/outcome.h"
#include "jobs/result.h"

namespace finesweep::storage {

/// status.json: how the sweep stood when it was last written, for `status` and other tools. Times are Unix
/// milliseconds.
struct StatusSnapshot {
  /// Persisted by name.
  enum class State { running, finished, interrupted, failed };

  /// By state, of jobs or of trials.
  struct Counts {
    std::int64_t pending = 0, running = 0, succeeded = 0, failed = 0, cancelled = 0;
    std::int64_t total() const { return pending + running + succeeded + failed + cancelled; }
  };

  struct Worker {
    int rank = 0;
    std::string host;
    std::string device;
    /// What it works on now; absent while it is idle. Of a pack, the member that has most before it.
    std::optional<AttemptKey> attempt;
    std::string title;
    Progress progress;
    /// Jobs that it trains together now.
    int pack = 1;
  };

  std::string sweep;
  State state = State::running;
  /// Absent while it runs.
  std::optional<int> exit_code;
  /// Why it failed or was interrupted, for the user.
  std::string message;
  Counts jobs;
  Counts trials;
  std::vector<Worker> workers;
  std::string host;
  int pid = 0;
  std::string slurm_job;
  std::int64_t started_ms = 0;
  std::int64_t heartbeat_ms = 0;
  std::optional<double> seconds_left;
};

/// A running sweep whose heartbeat is older than this looks dead.
inline constexpr std::int64_t kDeadAfterMs = 15'000;
bool looks_dead(const StatusSnapshot& status, std::int64_t now_ms);

std::string_view status_state_name(StatusSnapshot::State state);
void to_json(Json& json, const StatusSnapshot& status);
/// Throws on ill-typed input.
void from_json(const Json& json, StatusSnapshot& status);

/// Replaces the file atomically. The disk is waited for only where the sweep is no longer running.
Status write_status(const std::filesystem::path& status_file, const StatusSnapshot& status);
Result<StatusSnapshot> read_status(const std::filesystem::path& status_file);

}  // namespace finesweep::storage
