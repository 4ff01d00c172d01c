#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coordinator/instant.h"
#include "jobs/packing.h"

namespace finesweep::coordinator {

struct DispatchOptions {
  /// A worker holds packs for at least this long beyond the one that it runs, by the mean duration of its latest…
  Duration backlog = std::chrono::milliseconds(500);
  /// …but at least one and at most so many.
  int max_backlog_jobs = 256;
  /// Jobs that may share a pack on a GPU and on a CPU; 1: no packing.
  int max_pack_jobs = 1;
  int max_pack_jobs_on_cpu = 1;
};

/// What matters about a job when it is placed.
struct JobTraits {
  /// Its base model, numbered by the caller: a worker that has it loaded is preferred.
  int model = 0;
  PackTraits pack = {};
  /// 0, or the part of a crashed pack that it belongs to: only jobs of one group share a pack.
  int group = 0;
  bool isolate = false;
  /// Devices of one host that it needs together.
  int gpus = 1;
};

/// Decides which worker gets which ready jobs next. It knows the ready jobs, the workers' queues and their hosts,
/// and nothing of attempts, leases or messages. Jobs are numbered by the plan, workers by the caller.
///
/// - Ready jobs go out in plan order, each to the worker with the shortest queue; where several are equally short,
/// to
///   one that has the job's base model loaded.
/// - With the first ready job go those of its pack key that are ready, in plan order, until the next one would
/// exceed
///   what PackFill admits, or the worker would have more than its share of all jobs (those that are ready or out ÷
///   workers): packs leave others something to do. A pack that is at most half full goes only where no other one
///   waits: it may still be filled.
/// - A queue grows beyond its first pack only as far as the ready jobs last for all workers alike (ready ÷
/// workers).
///   When nothing is ready and a worker is idle, the last pack of the longest queue may be taken back (theft).
/// - Where the pack at the head of a queue is half empty and no job that waits there could join it, ready jobs that
///   could go there, beyond what the queue holds otherwise, unless an idle worker could begin them at once.
/// - A job with `isolate` on a CPU: when it is the first ready job, the host with the least work is reserved for
/// it.
///   A reserved host gets no new work; once it has run empty the job goes there, and the host opens again when
///   the job has left. So neither kind of job can be overtaken for ever. On a GPU it is merely alone in its pack.
///
/// - A job on several devices (gang scheduling): when it is the first ready job, so many workers of one host are
/// claimed
///   for it, the least busy ones. A claimed worker gets no new work; once all have run empty the job goes to one of
///   them, which leads, and the others are lent to it until it has left. Such jobs claim in plan order, and a claim
///   waits only for what was placed or claimed before: so they neither starve nor wait for each other for ever.
///   With `isolate` on a CPU the host is reserved, as above.
///
/// Every call costs O(log n); reserving or opening a host, or claiming of it, costs that for each of its workers,
/// and finding a host for a job on several devices a look at each host.
class DispatchPolicy {
 public:
  DispatchPolicy(DispatchOptions options, std::vector<JobTraits> jobs);

  /// memory_mb: of a GPU; 0: not known.
  void add_worker(int worker, const std::string& host, bool on_cpu, double memory_mb = 0);
  /// The worker must hold nothing any more.
  void remove_worker(int worker);
  /// A worker on its way out gets nothing new.
  void set_leaving(int worker, bool leaving);
  /// How many withdrawn jobs the worker may still be running: isolated jobs and those on several devices wait for
  /// them.
  void set_unconfirmed(int worker, int jobs);

  void add_ready(int job);
  /// The job is not ready any more, without having been placed.
  void remove_ready(int job);
  void set_group(int job, int group) { jobs_[job].group = group; }

  struct Choice {
    int worker = -1;
    std::vector<int> jobs;  // one pack
    /// The other workers whose devices the job gets: gpus - 1 of them.
    std::vector<int> lent;
  };
  /// The next pack and its worker, which now holds it; nullopt when nothing is to be placed.
  std::optional<Choice> next(Instant now);
  /// Which jobs to withdraw since an idle worker could begin them at once and their own cannot soon.
  std::optional<Choice> theft(Instant now) const;

  /// The job ended at its worker.
  void finished(int job, Instant now);
  /// The job was taken from its worker before it ended.
  void withdraw(int job, Instant now);
  /// The worker has been seen to work on the job.
  void mark_begun(int job);
  /// The worker runs a job of its queue in the pack of this other one, which has begun. False where the two may not
  /// share one, or where different workers hold them: then nothing changes.
  bool join(int job, int member, Instant now);

  /// At the head of its worker's queue, or seen to be worked on.
  bool begun(int job) const;
  /// How the job may join a pack that runs already. Not at all (a negative key) while it belongs to a part of a
  /// crashed one, which would put the parts together again.
  PackTraits joining_traits(int job) const;
  /// The jobs still out of the pack that this one is in, in plan order.
  const std::vector<int>& pack_of(int job) const;
  /// That pack's number, used once.
  std::int64_t pack_number(int job) const { return placed_.at(job); }
  /// What the worker holds, in the order in which it runs them.
  std::vector<int> queue(int worker) const;

  /// Ready, or waiting for its host or workers to run empty.
  bool waits(int job) const;

  /// The most workers of one host, where jobs on several devices are about.
  int largest_host() const;
  /// Ready jobs on more devices than any host has workers.
  bool has_unplaceable() const;
  std::vector<int> unplaceable() const;
  /// The job that runs on the device of this worker, which is lent to another one.
  std::optional<int> job_on_lent(int worker) const;
  /// The worker that this one is lent to; -1: none.
  int lent_to(int worker) const { return workers_.at(worker).leader; }
  /// A worker that has just been added is the next stay of one that was lost while it was lent: its device is free
  /// once that job is over, if it is not already.
  void lend_again(int worker, int leader);

  /// Throws std::logic_error where the state contradicts itself.
  void sanity_check() const;

 private:
  using PackNumber = std::int64_t;  // in order of placement
  struct Pack {
    int worker = -1;
    std::vector<int> jobs;
    bool begun = false;
  };
  struct Worker {
    int host = -1;
    bool on_cpu = true;
    double memory_mb = 0;
    bool leaving = false;
    int claimed_for = -1;      // a job on several devices
    int leader = -1;           // the worker that this one is lent to
    std::set<int> lent;        // the workers lent to this one,
    PackNumber lent_pack = 0;  // for this pack; 0: it has left, but may still be running
    int unconfirmed = 0;
    int model = -1;
    std::set<PackNumber> packs;
    std::size_t jobs = 0;           // of these packs
    Instant head_since{};           // since when the first pack is the first
    std::optional<double> mean_ns;  // of the latest packs
    double mean_over = 0;           // how many those are
    // How it stands in the ordered sets below.
    bool open = false;
    int roomy_for = -1;
    std::size_t listed_load = 0;
    int listed_model = -1;
  };
  struct Host {
    std::set<int> workers;
    int busy = 0;    // packs and unconfirmed jobs
    int claims = 0;  // jobs on several devices that wait for workers of it
    int reserved_for = -1;
    bool isolating = false;  // that job is there
    std::optional<std::tuple<int, std::size_t, int>> listed;
    int usable = 0, claimable = 0;  // workers, as listed below
  };
  struct Claim {
    int host = -1;
    std::set<int> workers;
  };
  using ByLoad = std::set<std::pair<std::size_t, int>>;  // (packs, worker)

  int backlog_packs(const Worker& worker) const;
  void relist(int worker);
  void relist_host(int host);
  bool can_isolate(const Worker& worker) const { return worker.on_cpu && !worker.leaving; }
  void reserve(int host, int job);
  void release(int host);
  std::optional<int> pick_worker(int job) const;
  std::optional<Choice> start_isolated(Instant now);
  int room_for(const Worker& worker) const;
  void relist_room(int worker);
  std::optional<Choice> send_joiners(Instant now);
  void relist_sizes(int host);
  bool is_idle(const Worker& worker) const;
  std::optional<int> first_gang() const;
  bool claim(int job);
  void unclaim(int job);
  void look_at_claim(int job);
  std::optional<Choice> start_gang(Instant now);
  void lend(int leader, const std::vector<int>& others, PackNumber pack);
  void take_back_lent(int leader);
  int max_pack_jobs(bool on_cpu) const { return on_cpu ? options_.max_pack_jobs_on_cpu : options_.max_pack_jobs; }
  int usual_pack_jobs(int job, bool on_cpu) const;
  std::vector<int> choose_pack(int job, const Worker& worker) const;
  void erase_ready(int job);
  Choice place(int worker, std::vector<int> jobs, Instant now);
  PackNumber leave(int job, Instant now);
  void close_pack(PackNumber number, Instant now);

  DispatchOptions options_;
  std::vector<JobTraits> jobs_;
  std::set<int> ready_;
  std::map<std::pair<int, int>, std::set<int>> ready_by_group_;  // (group, pack key); of those that have a key
  std::unordered_map<int, int> reserved_host_;                   // of a job that waits for its host
  bool has_gangs_ = false;                                       // among the jobs are some on several devices:
  std::map<int, std::set<int>> ready_gangs_;                     // the ready ones, by their number of devices
  std::map<int, Claim> claims_;                                  // of those that wait for their workers
  std::set<int> startable_;                                      // those whose workers have run empty
  std::set<std::pair<int, int>> usable_, claimable_;             // (workers, host), with such jobs only
  std::unordered_map<int, PackNumber> placed_;
  std::unordered_map<PackNumber, Pack> packs_;
  PackNumber next_pack_ = 1;

  std::map<int, Worker> workers_;
  std::vector<Host> hosts_;
  std::map<std::string, int> host_numbers_;
  int active_workers_ = 0;  // not leaving
  ByLoad by_load_;          // every worker
  ByLoad open_[2];          // those with room, on a CPU [0] and on a GPU [1]
  std::map<int, ByLoad> open_by_model_[2];
  std::set<std::pair<int, int>> roomy_;  // (pack key, worker): the pack at its head could be joined by such jobs
  std::set<std::tuple<int, std::size_t, int>> reservable_;  // (busy, workers, host)
  std::set<int> drained_;                                   // reserved hosts that have run empty
};

}  // namespace finesweep::coordinator
