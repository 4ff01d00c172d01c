#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

/// slurm.json in a run directory: what `submit` and the batch script of the job that began last note there. Times
/// are Unix milliseconds.
struct SlurmRecord {
  /// The job that was submitted last.
  std::string submitted_job;
  std::int64_t submitted_ms = 0;

  /// One life of a job: from its start to its end or its being requeued.
  struct Life {
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
  std::optional<Life> life;
};

/// Absent where there is none.
Result<std::optional<SlurmRecord>> read_slurm_record(const storage::RunDirectory& run);
Status write_slurm_record(const storage::RunDirectory& run, const SlurmRecord& record);

/// The life of a job alone, in slurm-lives/JOB.json: a second job on the directory, which is refused, begins a life
/// too, and the first one's must still be there in the end. Absent where there is none.
Result<std::optional<SlurmRecord::Life>> read_slurm_life(const storage::RunDirectory& run, const std::string& job);
Status write_slurm_life(const storage::RunDirectory& run, const SlurmRecord::Life& life);

/// Submitted after the last life began: the job waits in Slurm's queue, or was cancelled there.
bool waits_in_queue(const SlurmRecord& record);

}  // namespace finesweep::coordinator
