#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "jobs/result.h"

namespace finesweep::slurm {

/// What a sweep asks of Slurm.
struct BatchJob {
  std::string sweep;              // its name, for the job's name
  std::filesystem::path program;  // finesweep, absolute; the same path on all nodes
  std::filesystem::path run;      // the run directory, absolute
  std::filesystem::path file;     // the sweep file, absolute: nobody changes it as long as the job may come back
  int nodes = 1;
  /// Of each node; 0: the sweep runs on CPUs.
  int gpus_per_node = 0;
  /// Ranks of each node that may work, beside one that coordinates or stays idle. With GPUs as many as these.
  int workers_per_node = 1;
  /// Cores of each rank; 0: as the cluster has it.
  int cpus_per_task = 0;
  std::string time;                    // as sbatch takes it; empty: the partition's default
  std::vector<std::string> arguments;  // more of them for `finesweep run`
};

/// Seconds before the time limit at which the job is told to write checkpoints.
inline constexpr int kWarningSeconds = 120;

/// The Error names the option that sbatch would refuse.
Status check(const BatchJob& job);

/// The text of a bash script for sbatch, whole in itself: `sbatch FILE` runs the sweep or goes on with it.
///
/// The script starts srun in the background and passes USR1 on to it; the step checkpoints and ends; then
/// `finesweep slurm-life end` has the job requeued, or not (docs/slurm.md). Of what a user wrote only paths and
/// `arguments` stand in it, each as one quoted word. `job` has passed check().
std::string batch_script(const BatchJob& job);

}  // namespace finesweep::slurm
