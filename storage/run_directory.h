#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "jobs/ids.h"
#include "jobs/result.h"
#include "storage/artifact.h"

namespace finesweep::storage {

/// Where everything of a run lies:
///
///   sweep.yaml  finesweep.db  status.json  events.jsonl  coordinator.lock
///   join.json                    what a worker needs to join, while the coordinator lets workers join
///   status-page.json             where the page of the running sweep is, with its token, while there is one
///   control/                     requests to the running sweep
///   slurm.sh  slurm.json         of `submit`: the batch script, and which job was submitted last
///   submitted/  slurm-lives/     sweeps by the hash of their text; by job of Slurm what was there when it began
///   staging/<job>.<n>/           what attempt n writes: artifact/ and checkpoints/
///   artifacts/<job>/             manifest.json and files
///   logs/<job>.<n>.log
///   reports/
///
/// Holds the absolute path alone; every call looks at the disk anew. Safe to use from several threads.
class RunDirectory {
 public:
  explicit RunDirectory(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path sweep_file() const { return path_ / "sweep.yaml"; }
  std::filesystem::path database() const { return path_ / "finesweep.db"; }
  std::filesystem::path status_file() const { return path_ / "status.json"; }
  std::filesystem::path events_file() const { return path_ / "events.jsonl"; }
  std::filesystem::path lock_file() const { return path_ / "coordinator.lock"; }
  std::filesystem::path join_file() const { return path_ / "join.json"; }
  std::filesystem::path status_page_file() const { return path_ / "status-page.json"; }
  std::filesystem::path control() const { return path_ / "control"; }
  std::filesystem::path reports() const { return path_ / "reports"; }
  /// What jobs may use again and can make anew: tokenised rows. Made where it is first needed; may be removed.
  std::filesystem::path cache() const { return path_ / "cache"; }
  std::filesystem::path staging(const AttemptKey& attempt) const;
  std::filesystem::path staged_artifact(const AttemptKey& attempt) const { return staging(attempt) / "artifact"; }
  std::filesystem::path checkpoints(const AttemptKey& attempt) const { return staging(attempt) / "checkpoints"; }
  std::filesystem::path artifact(const JobId& job) const;
  std::filesystem::path log(const AttemptKey& attempt) const;

  /// Makes the folder and those in it, where they are not there.
  Status create() const;
  /// Holds a run: the database is there.
  bool holds_run() const;

  /// Makes the attempt's staging folder, empty.
  Status prepare_staging(const AttemptKey& attempt) const;
  /// Checkpoint folders of the job's attempts before `attempt`, newest attempt first.
  std::vector<std::filesystem::path> earlier_checkpoints(const AttemptKey& attempt) const;
  /// Removes the staging folders of all attempts of a job.
  Status remove_staging(const JobId& job) const;
  /// Attempts that have a staging folder, in order.
  std::vector<AttemptKey> staged_attempts() const;

  /// Verifies what the attempt left in staging and renames it, durably, to the job's artifact folder; returns its
  /// manifest. Where a valid artifact of the job is there already it is adopted: its manifest is returned, and what
  /// was staged stays where it is. An Error where what is there is not valid. Reads every byte: slow for large
  /// models.
  Result<Manifest> publish(const AttemptKey& attempt) const;

  /// Valid artifacts of jobs for which `is_recorded` is false: they were renamed by a coordinator that died before
  /// it recorded the result, and may be adopted. What is not valid is passed over, with a line in `rejected`.
  std::vector<Manifest> unrecorded_artifacts(const std::function<bool(const JobId&)>& is_recorded,
                                             std::vector<std::string>* rejected = nullptr) const;

 private:
  std::filesystem::path path_;
};

}  // namespace finesweep::storage
