#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

// What `submit` and the batch script note in a run directory. Times are Unix milliseconds.

/// slurm.json: the job that was submitted last.
struct SlurmRecord {
  std::string submitted_job;
  std::int64_t submitted_ms = 0;
};

/// Absent where there is none.
Result<std::optional<SlurmRecord>> read_slurm_record(const storage::RunDirectory& run);
Status write_slurm_record(const storage::RunDirectory& run, const SlurmRecord& record);

/// slurm-lives/JOB.json: one life of a job, from its start to its end or its being requeued. A file for each job: a
/// second one on the directory, which is refused, begins a life too, and the first one's must still be there in the
/// end.
struct SlurmLife {
  std::string job;
  int restarts = 0;
  std::int64_t begun_ms = 0;
  std::optional<std::int64_t> ends_ms;  // the time limit
  /// How the run directory stood before: of status.json…
  std::int64_t heartbeat_before_ms = 0;
  /// …jobs with a result…
  std::int64_t results_before = 0;
  /// …and by job in hex the highest step of which there is a checkpoint.
  std::map<std::string, std::int64_t> checkpoints_before;
};

/// Absent where none of the job began.
Result<std::optional<SlurmLife>> read_slurm_life(const storage::RunDirectory& run, const std::string& job);
Status write_slurm_life(const storage::RunDirectory& run, const SlurmLife& life);

/// No life of the job that was submitted last has begun: it waits in Slurm's queue, or was cancelled there.
bool waits_in_queue(const storage::RunDirectory& run, const SlurmRecord& record);

}  // namespace finesweep::coordinator
