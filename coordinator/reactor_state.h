#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "coordinator/dispatch_policy.h"
#include "coordinator/reactor.h"
#include "coordinator/reactor_jobs.h"

namespace finesweep::coordinator {

/// What the reactor knows, and the operations that keep its parts in step: each leaves jobs, queues and leases
/// consistent and appends its effects. What to do on which event stands in reactor.cc.
struct ReactorState {
  /// An attempt that a worker holds; one at most for each job, always the newest.
  struct Out {
    int worker = -1;
    Instant lease_end{};
    Progress progress;
  };
  /// One stay of a worker. Numbered from 0 as they come; numbers are not used again.
  struct Worker {
    WorkerId id;
    std::string device;
    Instant heard{};            // when it last gave a sign of life
    Instant listed_deadline{};  // its place in deadlines
    std::optional<Instant> leaving_since;
    // Revoked, but perhaps not over; until when the worker must say something of each.
    std::map<AttemptKey, Instant> unconfirmed;
    bool told_to_stop = false;
  };

  ReactorState(ReactorOptions options, const std::vector<Job>& plan, const std::map<JobId, JobHistory>& history,
               const std::vector<PackTraits>& packing);

  ReactorOptions options;
  ReactorJobs jobs;
  DispatchPolicy policy;
  std::unordered_map<int, Out> out;             // of running jobs
  std::unordered_map<int, WorkerId> publisher;  // of publishing jobs: who brought the result
  std::map<int, Worker> workers;
  std::map<std::int32_t, int> worker_of_rank;
  // By rank, to whom a worker's device was lent when it was lost.
  std::map<std::int32_t, int> lent_when_lost;
  // When each worker must be looked at: never later than its first lease runs out, at times earlier, so that a
  // renewed lease costs nothing here.
  std::set<std::pair<Instant, int>> deadlines;
  // When each given-up stay that still speaks was told to join anew. Repeated only seldom: for every Rejoin that a
  // worker obeys it drops what it has just been given.
  std::map<WorkerId, Instant> told_to_rejoin;
  int next_worker = 0;
  int next_group = 1;
  std::optional<Instant> unplaceable_since;  // ready jobs need more devices than any host has
  Instant last_now = Instant::min();
  bool stopping = false;
  bool ended = false;
  std::vector<Effect> effects;

  // ---- jobs ----

  AttemptKey newest(int job) const { return {jobs.job(job).id, jobs[job].attempts}; }
  void make_ready(int job);
  void record_end(int job, RecordAttemptEnd::Reason reason, std::string error);
  /// The job and all that need it are over. None of them is with a worker or the policy any more.
  void end_job(int job, JobPhase phase, const std::string& error);
  void charge_failure(int job, const std::string& error, bool permanent);

  // ---- workers ----

  const Worker* find_worker(const WorkerId& id) const;
  /// -1: not known (any more).
  int number_of(const WorkerId& id) const;
  void add_worker(const WorkerId& id, const WorkerInfo& info, Instant now);
  /// This stay of the worker is over; what it holds goes back.
  void give_up(int number, const std::string& reason, Instant now);
  void set_leaving(int number, Instant now);
  void tell_to_rejoin(const WorkerId& worker, Instant now);
  void tell_to_stop(int number);
  /// Takes a running job from its worker. The caller records the attempt's end and says what becomes of the job.
  void revoke(int job, Instant now);
  /// The worker does not work on this revoked attempt any more.
  void confirm(int number, const AttemptKey& attempt);
  /// Gives up the workers whose leases have run out.
  void expire_leases(Instant now);
  /// Ends jobs that have waited long enough for a host with so many devices.
  void end_unplaceable(Instant now);
  Duration unplaceable_patience() const { return 2 * options.lease; }

  /// Throws std::logic_error where the parts contradict each other.
  void sanity_check() const;

 private:
  void recover(const std::map<JobId, JobHistory>& history);
  std::string reason_of_dependents(int job) const;
  std::string losses_text() const;
  void go_on_after_loss(int job, bool counted);
  Instant deadline(int number) const;
  void list_deadline(int number);
};

}  // namespace finesweep::coordinator
