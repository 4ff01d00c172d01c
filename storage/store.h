#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/outcome.h"
#include "jobs/plan.h"
#include "jobs/result.h"
#include "jobs/state.h"
#include "storage/change.h"

namespace finesweep::storage {

/// What is known of a job. A job that is running in the store of a dead coordinator had its attempt `attempts` out.
struct StoredJob {
  JobId id;
  JobState state = JobState::pending;
  /// The highest number ever given.
  AttemptNumber attempts = 0;
  int failures = 0;
  int losses = 0;
  /// Present where the job succeeded.
  std::optional<Outcome> outcome;
  /// Of a failed or cancelled job.
  std::string error;
  /// The current sweep file needs it; results of others are kept for the day it does again.
  bool in_plan = false;
};

/// The run's database, finesweep.db: plan, states, attempts, results, events. Only the coordinator opens it while a
/// sweep runs. One thread at a time; every call blocks on the disk.
///
/// What apply() or save_plan() has returned for is on the disk. On a local disk the journal is a write-ahead log;
/// on a network file system (NFS, Lustre, …) it is a rollback journal under an exclusive lock.
///
/// events.jsonl is appended after each commit and repaired from the database when the store is opened.
class Store {
 public:
  struct Options {
    /// Absent: as the file system says.
    std::optional<bool> network_file_system;
  };

  /// Opens the database of the run directory, which exists; makes it where there is none. An Error where it was
  /// written by a newer finesweep (it says by which), is damaged, or is no database of ours.
  static Result<Store> create_or_open(const std::filesystem::path& run_directory, Options options);
  static Result<Store> create_or_open(const std::filesystem::path& run_directory);

  /// For reports about a run that is not running. Changes nothing a user can see; works in a read-only folder.
  static Result<Store> open_read_only(const std::filesystem::path& run_directory);

  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  /// Raises the generation number: from here on every other Store that began an earlier generation is refused.
  /// To be called before anything is changed.
  Result<std::int64_t> begin_generation(const std::string& host, int pid, std::int64_t time_ms);

  /// Makes `plan` the current one. Jobs known from earlier plans keep state, counters and result.
  Status save_plan(const Plan& plan, const std::string& sweep_text);
  bool has_plan() const;
  /// As it was saved. An Error where none was.
  Result<Plan> load_plan() const;
  /// The sweep file of the current plan, overrides applied.
  Result<std::string> load_sweep_text() const;

  /// All jobs ever planned: those of the current plan first, in its order.
  Result<std::vector<StoredJob>> load_jobs() const;

  /// Records all changes, in order, in one durable transaction (one sync), or none of them.
  Status apply(const std::vector<Change>& changes);

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::storage
