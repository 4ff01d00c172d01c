#pragma once

#include <cstddef>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "jobs/job.h"
#include "jobs/outcome.h"

namespace finesweep::worker {

/// What a runner is asked to do: one attempt at one job. Paths are absolute.
struct ExecutionRequest {
  Job job;
  AttemptNumber attempt = 1;
  /// This attempt's own folder; it exists and is empty. The artifact goes to staging/artifact (see
  /// storage/artifact.h), checkpoints to staging/checkpoints (see storage/checkpoint.h). Nothing but `cache` is
  /// written elsewhere.
  std::filesystem::path staging;
  /// Published artifact folder of each of job.inputs, and of job.continues.
  std::map<JobId, std::filesystem::path> artifacts;
  /// Checkpoint folders of earlier attempts, newest attempt first. The newest valid checkpoint is continued from.
  std::vector<std::filesystem::path> earlier_checkpoints;
  /// "cpu" or "cuda:0".
  std::string device = "cpu";
  /// libtorch's intra-op threads on a CPU.
  int threads = 1;
  /// Of the processes that train together, job.gpus of them: rank 0 leads, the others help it and leave no
  /// artifact.
  int rank = 0, ranks = 1;
  /// A folder that jobs share, for rows once tokenised (worker/data/tokenized_cache.h). Empty: none.
  std::filesystem::path cache = {};
};

/// What was made ready is not wanted. A pack's execution passes it on.
struct NotWanted : std::exception {
  const char* what() const noexcept override { return "it is not wanted"; }
};

/// The executor's only way out while it works. Called from the thread that executes, at step boundaries.
class ExecutionControl {
 public:
  virtual ~ExecutionControl() = default;
  /// Cheap enough to be called every step; the implementation limits what it sends.
  virtual void progress(const Progress& progress) = 0;
  /// True once the runner was told to stop: write a checkpoint at the next step boundary and return `interrupted`.
  virtual bool stop_requested() = 0;
  /// This attempt fails only because another process of it was lost: what became of that one is the cause.
  virtual void peer_lost() {}
  /// Called once, when data and model are ready and the work itself is to begin: waits until the device is this
  /// job's. Until then another process has it, so nothing is written and little is computed. Throws NotWanted where
  /// the job was only to be made ready.
  virtual void await_turn() {}
  /// Whether await_turn() would return at once.
  virtual bool has_turn() { return true; }
  /// At the end, at most once: what is still to be done are files, and needs little of the device. Another job may
  /// have it from here on.
  virtual void computed() {}
};

/// Runs the job to its end on the calling thread. Never throws: a library's exception, an out-of-memory or a
/// non-finite loss becomes a failed Outcome with a message for the user.
Outcome execute(const ExecutionRequest& request, ExecutionControl& control);

/// A job of a pack.
struct PackMember {
  ExecutionRequest request;
  ExecutionControl* control = nullptr;
};

/// Runs jobs that share a frozen base model together, on one device, each as execute() would: its artifact goes
/// into its own staging folder and its own control hears of it. `ended(i, outcome)` is called once for each, on the
/// calling thread, as soon as member i is done. A member whose control says stop leaves alone, between two steps,
/// with an `interrupted` outcome and, of a training, a checkpoint; one that fails, fails alone. Who does not fit
/// runs by itself behind them. A pack that runs out of memory is split in halves, which run one after the other
/// from their checkpoints: a member fails for it only when it runs alone.
///
/// While a training of a pack has a while to go, it asks now and then, and when one ends, who joins, if anybody:
/// `who_joins` gives members that are numbered on from the last one. Nobody is asked for once memory lacked.
///
/// Who ran beside others has the number of jobs as outcome.environment["pack"], and no metric peak_memory_mb.
void execute_pack(const std::vector<PackMember>& members, const std::function<void(std::size_t, Outcome)>& ended,
                  const std::function<std::vector<PackMember>()>& who_joins = {});

/// Begins to load what the first job on a GPU would wait for; returns at once.
void warm_up(const std::string& device);

/// Whether a job may be made ready on the device beside the one that has it: at least half of its memory is free.
bool has_room_beside(const std::string& device);

/// Of the device's memory, what this process took at most since the last base was loaded.
double memory_share(const std::string& device);

/// Lets go of what is kept on the device from job to job, the allocator's blocks and weights, unless they are small
/// beside its memory.
void let_go(const std::string& device);

/// For `doctor` and for the workers: {"device": "cpu"|"cuda:0", "name", "memory_mb", "bf16", "libtorch", "cuda",
/// …}.
Json describe_device(const std::string& device);

}  // namespace finesweep::worker
