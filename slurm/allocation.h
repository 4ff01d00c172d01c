#pragma once

#include <functional>
#include <optional>
#include <string>

namespace finesweep::slurm {

/// What Slurm says of itself in the environment of a job.
struct Allocation {
  std::string job;
  /// Earlier lives of the job: 0 before it was requeued.
  int restarts = 0;
  /// The name of this node; what gethostname() says may be the same on several.
  std::string node;
  /// Cores that each rank was given; 0: nothing was asked for.
  int cpus_per_task = 0;
};

using Environment = std::function<const char*(const char* name)>;

/// Absent outside of a job.
std::optional<Allocation> read_allocation(const Environment& environment);
/// Of this process.
std::optional<Allocation> read_allocation();

/// Seconds, from the form of `squeue -o %L`: "59", "1:26", "1:02:03", "1-02:03:04". Absent where there is no limit
/// ("UNLIMITED", "NOT_SET") or no such form.
std::optional<long> parse_time_left(const std::string& text);

/// Seconds until the job's time limit, by asking the controller: to be done seldom. Absent where there is no limit
/// or no answer. Blocks for some seconds at most.
std::optional<long> time_left(const Allocation& allocation);

}  // namespace finesweep::slurm
