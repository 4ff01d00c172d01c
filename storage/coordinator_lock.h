#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::storage {

/// Who holds a run directory: the content of coordinator.lock. pid and start time name a process only within the
/// boot and the pid namespace of its host.
struct LockHolder {
  std::string host;
  std::string boot_id;
  std::string pid_namespace;
  int pid = 0;
  /// Field 22 of /proc/<pid>/stat: tells the process from a later one with its pid.
  std::uint64_t start_time = 0;
  std::string slurm_job;
  std::int64_t heartbeat_ms = 0;  // Unix milliseconds
  /// Random; tells this holding from any other.
  std::string token;
};

/// The calling process.
LockHolder describe_this_process();

struct LockOptions {
  /// A holder on another host is dead after this long without a heartbeat…
  std::int64_t dead_after_ms = 30'000;
  /// …and after being watched this long without one, since clocks of hosts differ.
  std::int64_t watch_ms = 5'000;
  LockHolder self = describe_this_process();
  /// Unix milliseconds, and how to wait; tests bring their own.
  std::function<std::int64_t()> now_ms;
  std::function<void(std::int64_t milliseconds)> wait;
};

/// One coordinator to a run directory. Held until destroyed or release().
///
/// A holder on the same host that is dead is taken over at once; one on another host after 30 s without heartbeat;
/// otherwise acquire() is refused with the holder's host and pid. On one host flock() on the file decides where the
/// file system has it. This keeps two coordinators from starting by mistake; what keeps a paused one that wakes up
/// from writing is the store's generation number.
class CoordinatorLock {
 public:
  static Result<CoordinatorLock> acquire(const RunDirectory& run, LockOptions options);
  static Result<CoordinatorLock> acquire(const RunDirectory& run);
  ~CoordinatorLock();
  CoordinatorLock(CoordinatorLock&&) noexcept;
  CoordinatorLock& operator=(CoordinatorLock&&) noexcept;

  /// To be called every 2 s or so. An Error where another process took the lock: stop at once.
  Status heartbeat();
  void release();

  /// The dead holder that was taken over, for the log.
  const std::optional<LockHolder>& taken_from() const;

 private:
  struct Impl;
  explicit CoordinatorLock(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Who holds the directory by the file's content, dead or alive; nullopt where nobody says so.
std::optional<LockHolder> read_lock(const RunDirectory& run);

}  // namespace finesweep::storage
