#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/instant.h"
#include "jobs/job.h"
#include "jobs/outcome.h"
#include "jobs/packing.h"

namespace finesweep::coordinator {

struct ReactorOptions {
  /// A worker that is silent for this long, or does not name an attempt that it holds in its heartbeats, or neither
  /// names nor confirms one that was revoked, is given up with all that it holds.
  Duration lease = std::chrono::seconds(30);
  /// A call that comes this much later than next_deadline() shows that the coordinator itself stood still (stopped,
  /// or waiting for a disk): heartbeats may lie unread, so the leases that ran out meanwhile begin anew.
  Duration stall = std::chrono::seconds(5);
  /// So many losses of workers, nodes and coordinators fail a job.
  int max_losses = 5;
  /// A worker holds work for at least this long beyond its running job, by the mean duration of its latest jobs…
  Duration backlog = std::chrono::milliseconds(500);
  /// …but at least one job and at most so many.
  int max_backlog_jobs = 256;
  /// Jobs that may share a pack on a GPU and on a CPU; 1: no packing.
  int max_pack_jobs = 1;
  int max_pack_jobs_on_cpu = 1;
};

enum class JobPhase { waiting, ready, running, publishing, succeeded, failed, cancelled };

/// What the store remembers of a job from earlier lives of the coordinator.
struct JobHistory {
  JobPhase phase = JobPhase::waiting;  // succeeded, failed, cancelled, or anything else: to be run
  AttemptNumber attempts = 0;          // the highest number ever given
  int failures = 0;                    // charged against Job::retries
  int losses = 0;
  std::string error;  // of a failed or cancelled job
  /// Whether attempt `attempts` was out when the earlier coordinator ended. One that had begun (the first of those
  /// that its worker held) costs the job a loss; with the first event's effects its end is recorded as lost.
  enum class Open { no, queued, begun } open = Open::no;
};

struct WorkerInfo {
  std::string host;
  std::string device;    // "cpu" or "cuda:<index>"
  double memory_mb = 0;  // of a GPU; 0: not known
};

// ---- events ----

struct WorkerJoined {
  WorkerId worker;
  WorkerInfo info;
};
/// The worker is known to be gone (its launcher said so, or it said goodbye while holding work).
struct WorkerLost {
  WorkerId worker;
  std::string reason;
};
struct HeartbeatArrived {
  WorkerId worker;
  std::vector<std::pair<AttemptKey, Progress>> held;
};
struct AttemptFinished {
  WorkerId worker;
  AttemptKey attempt;
  Outcome outcome;
  bool crashed = false;
};
/// Nothing of an attempt that was revoked runs at the worker any more.
struct AttemptRevoked {
  WorkerId worker;
  AttemptKey attempt;
};
/// Attempts that waited at the worker run from now on in the pack of these.
struct AttemptsJoined {
  WorkerId worker;
  std::vector<AttemptKey> pack;
  std::vector<AttemptKey> joined;
};
/// The store's answers to Publish.
struct Published {
  AttemptKey attempt;
};
struct PublishFailed {
  AttemptKey attempt;
  std::string error;
};
/// Ask every worker to checkpoint and leave; dispatch nothing more.
struct StopRequested {};
struct CancelRequested {
  std::vector<JobId> jobs;
};
/// Time passed; leases may have run out.
struct Tick {};

using Event = std::variant<WorkerJoined, WorkerLost, HeartbeatArrived, AttemptFinished, AttemptRevoked,
                           AttemptsJoined, Published, PublishFailed, StopRequested, CancelRequested, Tick>;

// ---- effects ----
// The driver carries out the effects of one call in order, with one durable commit for all that must be recorded
// before anything is sent.

/// Record that the attempt exists; durable before its Dispatch is sent.
struct RecordAttempt {
  AttemptKey attempt;
  WorkerId worker;
  /// The pack that it goes out with: how many jobs, and the first of them.
  int pack_jobs = 1;
  JobId pack_first = {};
};
/// Note that the attempt runs in another pack than it went out with: in that of this job, of so many now.
struct RecordJoin {
  AttemptKey attempt;
  JobId member;
  int pack_jobs = 2;
};
/// Record that the attempt ended without a result. superseded: it was taken from its worker before it began, to run
/// elsewhere.
struct RecordAttemptEnd {
  AttemptKey attempt;
  enum class Reason { failed, interrupted, lost, cancelled, superseded } reason = Reason::failed;
  std::string error;
  /// The job's counters after it.
  int failures = 0;
  int losses = 0;
};
/// Record the job's final failure (its own, or that of a job it needs) or cancellation.
struct RecordJobEnd {
  JobId job;
  bool cancelled = false;
  std::string error;
};
/// Verify and publish the attempt's artifact (if the outcome has one) and commit the result; answered by Published
/// once that is durable, or by PublishFailed.
struct Publish {
  AttemptKey attempt;
  Outcome outcome;
};
struct SendDispatch {
  WorkerId worker;
  std::vector<AttemptKey> pack;
  /// Of a job on several devices: all of them, the worker's own first. Else empty.
  std::vector<std::string> devices;
};
/// Another worker of its host works on this one's device.
struct SendLend {
  WorkerId worker;
};
struct SendAcknowledge {
  WorkerId worker;
  AttemptKey attempt;
  bool accepted = false;
};
/// Answered by AttemptRevoked.
struct SendRevoke {
  WorkerId worker;
  AttemptKey attempt;
};
struct SendStop {
  WorkerId worker;
};
/// This WorkerId is not known (any more): the process behind it must join anew. Repeated once a lease while it does
/// not.
struct SendRejoin {
  WorkerId worker;
};
/// Nothing is left to do (or nothing can be done: stopping, and no attempt is out). Emitted once; every worker has
/// been sent Stop by then, and one that joins later is sent it too.
struct SweepEnded {};

using Effect = std::variant<RecordAttempt, RecordJoin, RecordAttemptEnd, RecordJobEnd, Publish, SendDispatch,
                            SendLend, SendAcknowledge, SendRevoke, SendStop, SendRejoin, SweepEnded>;

/// What the reactor shows of itself, for status, progress bars and tests.
struct AttemptView {
  AttemptKey key;
  WorkerId worker;
  Instant lease_end{};
  Progress progress;
  /// Its worker runs it, or will as soon as the message arrives; else it waits in the worker's queue.
  bool begun = false;
  /// Attempts of one number are out in one pack; they stand together.
  std::int64_t pack = 0;
};
struct JobView {
  JobPhase phase = JobPhase::waiting;
  AttemptNumber attempts = 0;
  int failures = 0;
  int losses = 0;
  std::string error;
};
struct Counts {
  std::int64_t waiting = 0, ready = 0, running = 0, publishing = 0, succeeded = 0, failed = 0, cancelled = 0;
  bool operator==(const Counts&) const = default;
};

/// Decides what the coordinator does: a deterministic function from (state, event, time) to (state, effects), with
/// no clock, socket, file or thread of its own, so that whole clusters run in a test under virtual time.
///
/// - A job runs once its inputs (and the job it continues) have succeeded. Where one fails or is cancelled, so do
///   all that need it.
/// - A dispatched attempt carries a lease. Only the newest attempt, from the worker that holds it, within its
///   lease, may be published: fencing. A lost attempt is followed by one with a higher number, elsewhere or there.
///   Where one lease of a worker runs out, the worker is given up with all that it holds.
/// - Job::retries bounds failures of the job itself; ReactorOptions::max_losses bounds losses, which count only
///   where the attempt had begun. A pack that crashes is split in halves, which run again; only a job that crashed
///   alone is charged. What a worker lets join a pack that runs belongs to that pack from then on.
/// - Job::isolate on a CPU: alone among the workers of its host. See dispatch_policy.h for who gets what.
/// - Job::gpus above 1: one worker holds the attempt, the devices of others of its host are lent to it meanwhile.
///   Where one of these workers is lost, so is the attempt. A job that for two leases no host has workers enough
///   for fails.
/// - A revoked attempt may still run until its worker has confirmed that it does not, or is lost. So long its
///   devices go to no job on several devices and its host to no isolated one. A heartbeat confirms nothing: it may
///   have been sent before the worker had heard of the attempt.
/// - A worker that reports an interrupted attempt is about to leave: it gets nothing new for one lease.
///
/// What workers say is never trusted to make sense: what does not is refused, not asserted.
///
/// Work per event is proportional to what changes, not to the number of jobs.
class Reactor {
 public:
  /// `jobs` in plan order (inputs first), which outlive the reactor; earlier jobs are dispatched first. `history`
  /// for jobs known from before. `packing` says for each job how it may share a pack; empty: none may. Throws
  /// std::invalid_argument where a job occurs twice or stands before one that it needs.
  Reactor(ReactorOptions options, const std::vector<Job>& jobs, const std::map<JobId, JobHistory>& history,
          const std::vector<PackTraits>& packing = {});
  Reactor(ReactorOptions options, std::vector<Job>&& jobs, const std::map<JobId, JobHistory>& history,
          const std::vector<PackTraits>& packing = {}) = delete;
  ~Reactor();

  std::vector<Effect> handle(const Event& event, Instant now);

  const Job& job(const JobId& id) const;
  /// How it may join a pack that runs already; with a negative key it may not.
  PackTraits joining_traits(const JobId& id) const;
  JobView view(const JobId& id) const;
  /// It has joined and is neither lost nor given up.
  bool knows(const WorkerId& worker) const;
  Counts counts() const;
  std::vector<AttemptView> attempts() const;  // that are out, by worker
  bool ended() const;
  /// When the next lease may run out: a Tick is due then at the latest. Empty while no worker is there.
  std::optional<Instant> next_deadline() const;

  /// Throws std::logic_error where the state contradicts itself; for tests, after every event.
  void sanity_check() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::coordinator
