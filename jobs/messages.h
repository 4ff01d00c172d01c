#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "jobs/frame.h"
#include "jobs/job.h"
#include "jobs/outcome.h"
#include "jobs/packing.h"

namespace finesweep {

// ---- worker → coordinator
// ----------------------------------------------------------------------------------------

/// First word of a worker, and of one that was given up and comes back. Answered by Welcome.
struct Hello {
  std::string host;
  int pid = 0;
  /// Index among the workers of its node: the index of its device.
  int node_index = 0;
  std::string device;  // "cpu" or "cuda:<index>"
  /// Of a GPU; 0: not known.
  double memory_mb = 0;
};

/// Renews the lease of every attempt it names, and of no other: of those that wait, run or have a result that is
/// not acknowledged, revoked ones too while they run. Sent every Welcome::heartbeat_s.
struct Heartbeat {
  WorkerId worker;
  struct Held {
    AttemptKey attempt;
    Progress progress;  // done = 0 while it waits
  };
  std::vector<Held> held;
};

/// An attempt's end. Sent again with every heartbeat until it is acknowledged.
struct Finished {
  WorkerId worker;
  AttemptKey attempt;
  Outcome outcome;
  /// The runner died under it (a crash, a kill, out of memory): a pack is halved before a job is blamed.
  bool crashed = false;
};

/// Answer to Revoke, once nothing of the attempt runs here any more, or at once where nothing did.
struct Revoked {
  WorkerId worker;
  AttemptKey attempt;
};

/// The worker leaves and holds nothing any more.
struct Goodbye {
  WorkerId worker;
};

/// Attempts that waited here run from now on in the pack that runs: together with these, should it crash.
struct PackGrew {
  WorkerId worker;
  std::vector<AttemptKey> pack;
  std::vector<AttemptKey> joined;
};

// ---- coordinator → worker
// ----------------------------------------------------------------------------------------

struct Welcome {
  WorkerId worker;
  std::string run_directory;  // absolute
  double heartbeat_s = 1;
  /// A runner whose progress stands still this long is ended.
  double no_progress_s = 600;
  int threads = 1;
  /// On this worker's device; 1: no packs.
  int most_pack_jobs = 1;
};

/// One job of a pack.
struct Assignment {
  Job job;
  AttemptNumber attempt = 1;
  /// Of a job on several devices: all of them, this worker's first; they are its own until the attempt has ended.
  /// Else empty.
  std::vector<std::string> devices;
  /// How it may join a pack that runs already; with a negative key it may not.
  PackTraits traits = {};
};

/// Jobs to be run together, after what the worker holds already.
struct Dispatch {
  WorkerId worker;
  std::vector<Assignment> pack;
};

/// Answer to Finished: the result is durable, or it was refused for good. Either way the worker forgets it.
struct Acknowledge {
  AttemptKey attempt;
  bool accepted = false;
};

/// Stop working on this attempt and forget it: it was superseded or cancelled. Answered by Revoked.
struct Revoke {
  AttemptKey attempt;
};

/// The worker's device serves an attempt of another worker of its host: let go of what is kept loaded on it. Jobs
/// that come after that one has ended are dispatched as ever.
struct Lend {};

/// Write a checkpoint, report what was interrupted, say Goodbye, end.
struct Stop {};

/// The coordinator does not know this WorkerId (any more): drop everything and say Hello.
struct Rejoin {};

/// The coordinator lives. Sent every Welcome::heartbeat_s: a launcher that keeps the other ranks when one dies
/// (srun) tells nobody that it did.
struct Alive {};

// ---- worker ↔ runner
// ---------------------------------------------------------------------------------------------

/// The runner's first word.
struct RunnerReady {
  Json device = Json::object();
};

/// One job, or several that run together. Each has its Executed. Paths are absolute.
struct Execute {
  struct Member {
    Job job;
    AttemptNumber attempt = 1;
    std::string staging;
    std::map<std::string, std::string> artifacts;  // job id (hex) → folder
    std::vector<std::string> earlier_checkpoints;  // newest attempt first
    std::string log;                               // standard error goes to the first member's; the others' say so
    AttemptKey key() const { return {job.id, attempt}; }
  };
  std::vector<Member> pack;  // at least one
  int threads = 1;           // of libtorch, on a CPU
  std::string cache;         // what can be made again stands there, shared by all jobs of the run
  /// Of a job on several devices, which is alone in its pack: all of them, and which one's process this is. Rank 0
  /// leads.
  std::vector<std::string> devices;
  int rank = 0;
  /// Another process has the device: make everything ready, and wait for Begin.
  bool ahead = false;
  /// With `ahead`: make everything ready for nothing, so that a process that is new has data, base and kernels.
  /// Nothing is written; the answer is another RunnerReady.
  bool rehearsal = false;
};

/// The pack has work for a while: others may join it, if it has room. Asked when a member leaves, and twice a
/// second; answered by ExecuteMore, for which the runner waits.
struct HasRoom {};

/// These run with the pack that runs. Nobody, where nobody waits that fits.
struct ExecuteMore {
  std::vector<Execute::Member> pack;
};

/// The pack that was given ahead has the device now.
struct Begin {};

/// The pack that runs has computed its last: what follows are files and results, and the device is free for the
/// next.
struct Computed {};

/// Another process has the device: nothing large stays on it until the next Execute.
struct LetGo {};

struct ExecuteProgress {
  AttemptKey attempt;
  Progress progress;
};

struct Executed {
  AttemptKey attempt;
  Outcome outcome;
  /// It failed only because another process of the job was lost.
  bool peer_lost = false;
  /// Of the device's memory, what the process took at most; 1: not known.
  double memory_share = 1;
};

/// The process runs, whatever its computing thread does. Sent every second while it works with others on a job.
struct Pulse {};

/// Checkpoint and come back with an interrupted Outcome; the rest of the pack goes on.
struct StopExecution {
  /// Of the pack that runs; empty: all of it.
  std::vector<AttemptKey> attempts;
};

using Message = std::variant<Hello, Heartbeat, Finished, Revoked, Goodbye, PackGrew, Welcome, Dispatch, Acknowledge,
                             Revoke, Stop, Rejoin, Alive, Lend, RunnerReady, Execute, ExecuteProgress, Executed,
                             StopExecution, Pulse, Begin, LetGo, HasRoom, ExecuteMore, Computed>;

Bytes encode(const Message& message);

/// The Error says what is wrong with the frame's payload or type.
Result<Message> decode(const Frame& frame);
Result<Message> decode(const std::uint8_t* data, std::size_t bytes);

}  // namespace finesweep
