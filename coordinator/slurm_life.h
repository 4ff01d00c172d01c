#pragma once

#include <map>
#include <optional>
#include <string>

#include "coordinator/slurm_record.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

// The life of a batch job: what the script of slurm/batch_script.h asks at its beginning, while srun runs, and at
// its end. All of it works from the run directory's files.

/// What a life has brought, or what was there before it.
struct Harvest {
  std::int64_t results = 0;                         // jobs that succeeded, ever
  std::map<std::string, std::int64_t> checkpoints;  // by job in hex: the highest step
};
Harvest take_stock(const storage::RunDirectory& run);

/// A result more, or a checkpoint of a later step.
bool brought_something(const SlurmLife& life, const Harvest& now);

/// What is to be done at the end of a life.
struct Verdict {
  bool requeue = false;
  int exit_code = 4;
  std::string message;  // for the job's log
};

/// `status`: what status.json holds now; `srun_code`: srun's exit code, believed only where this life's coordinator
/// left no word. Pure.
Verdict judge_life(const SlurmLife& life, const std::optional<storage::StatusSnapshot>& status, const Harvest& now,
                   int srun_code);

}  // namespace finesweep::coordinator
