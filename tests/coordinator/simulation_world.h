#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/reactor.h"
#include "tests/coordinator/simulation.h"
#include "tests/coordinator/simulation_random.h"
#include "tests/coordinator/simulation_store.h"

namespace finesweep::coordinator {

/// Thrown between two steps of the coordinator when it is killed there.
struct Killed {};

/// How bad this history is; drawn from its seed, so that some are quiet in most respects and wild in one.
struct Weather {
  Instant faults_until{};
  int kills = 0, freezes = 0, coordinator_kills = 0, stalls = 0, interruptions = 0, spikes = 0;
  int cancellations = 0, single_cancels = 0, hasty_cancels = 0;
  Duration heartbeat{};
  bool stop = false;
  double failure = 0, permanent = 0, crash = 0, publish_failure = 0, twice = 0;
  bool short_jobs = false, full_of_loans = false, full_of_packs = false;
};

/// Processes, messages and time around one reactor after another.
class World {
 public:
  World(std::uint64_t seed, const simulation::Options& options);
  simulation::Report run();

 private:
  using Action = std::function<void()>;

  // ---- time ----
  void at(Instant time, Action action);
  void after(Duration delay, Action action) { at(now_ + delay, std::move(action)); }
  void log(const std::string& what) const;

  // ---- the sweep and what goes wrong (simulation_world.cc) ----
  void make_weather();
  void make_jobs();
  void make_workers();
  void schedule_faults();
  Duration network_delay();

  // ---- the coordinator's side (simulation_coordinator.cc) ----
  struct Hello {
    int rank, process;
  };
  using ToCoordinator =
      std::variant<Hello, HeartbeatArrived, AttemptFinished, AttemptRevoked, AttemptsJoined, WorkerLost>;
  void start_coordinator();
  void kill_coordinator();
  void boundary();
  void when_awake(Action action);
  void send_to_coordinator(int rank, ToCoordinator message);
  void receive_next();
  void tick(int life);
  void cancel_on_its_way(const SendDispatch& dispatch);
  void note_decisions(const std::vector<Effect>& effects);
  void answer_cancellations();
  void handle(const Event& event);
  void flush();
  void publish(const Publish& effect);
  void end_life();
  void send(const WorkerId& worker, const Effect& effect);

  // ---- the workers' side (simulation_worker.cc) ----
  struct Welcome {
    WorkerId worker;
  };
  using ToWorker = std::variant<Welcome, SendDispatch, SendAcknowledge, SendRevoke, SendStop, SendRejoin>;
  /// One job in a runner: kept for ever, to see afterwards who was alone.
  struct Run {
    std::string host;
    int rank = 0, process = 0;
    int life = 0;  // of the coordinator
    WorkerId worker;
    AttemptKey attempt;
    Instant begin{};
    std::optional<Instant> end;
    bool revoked = false;  // how it ends concerns nobody, only that it has
  };
  struct Worker {
    std::string host, device;
    double memory_mb = 0;
    int process = 0;
    bool alive = false;
    Instant frozen_until{};
    Instant last_delivery{}, last_sent{};
    std::deque<ToWorker> inbox;
    std::optional<WorkerId> id;
    int heartbeats = 0;  // numbers the loops, of which only the newest beats
    std::deque<std::vector<AttemptKey>> queue;
    std::vector<std::size_t> running;  // indices of runs_: one pack
    std::map<AttemptKey, AttemptFinished> unacknowledged;
    bool stopping = false;
  };
  void start_worker(int rank);
  void kill_worker(int rank);
  void for_worker(int rank, Duration delay, Action action);
  void deliver(int rank, ToWorker message);
  void receive(int rank, const Welcome& message);
  void receive(int rank, const SendDispatch& message);
  void receive(int rank, const SendAcknowledge& message);
  void receive(int rank, const SendRevoke& message);
  void receive(int rank, const SendStop& message);
  void receive(int rank, const SendRejoin& message);
  void run_next(int rank);
  void begin_run(int rank, const AttemptKey& attempt);
  void let_join(int rank);
  void finish_run(int rank, std::size_t run, const Outcome& outcome, bool crashed);
  void drop_running(int rank);
  void kill_runner(int rank);
  void leave_run(int rank, std::size_t run);
  void say_revoked(int rank, const AttemptKey& attempt);
  bool concerns_somebody(int rank) const;
  void beat(int rank, int loop);
  void interrupt(int rank);
  void leave_if_done(int rank);

  void check_isolation(const AttemptKey& committed) const;
  void check_pack(const SendDispatch& dispatch);
  void note_crashed_pack(const std::vector<Effect>& effects);
  void check_blame(const std::vector<Effect>& effects) const;
  void check_halved(const JobId& job, std::size_t pack) const;
  void check_together(const Worker& worker, const std::vector<AttemptKey>& pack) const;
  void check_devices(const Run& mine) const;
  std::set<int> devices_of(const Run& run) const;
  const Run& run_of(const AttemptKey& committed) const;
  bool was_over_before(const Run& other, const Run& mine) const;
  const Job& job(const JobId& id) const { return jobs_[index_.at(id)]; }

  simulation::Options options_;
  simulation::Report report_;
  simulation::Random random_;
  Weather weather_;
  ReactorOptions reactor_options_;

  Instant now_{0};
  Instant give_up_at_{0};
  struct Scheduled {
    Instant time;
    std::int64_t order;
    Action action;
    bool operator>(const Scheduled& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  std::vector<Scheduled> schedule_;  // a heap
  std::int64_t next_order_ = 0;
  bool finished_ = false;

  std::vector<Job> jobs_;
  std::vector<PackTraits> packing_;
  std::map<JobId, std::size_t> index_;
  std::map<JobId, std::size_t> most_together_;  // of those whose pack crashed in this life of the coordinator
  std::map<AttemptKey, PackTraits> joining_;    // as dispatched
  std::map<AttemptKey, std::vector<AttemptKey>> crashed_with_;  // who ran beside it, not revoked
  std::optional<ModelStore> store_;
  std::vector<Run> runs_;
  std::map<AttemptKey, std::set<int>> lent_;          // ranks
  std::map<AttemptKey, int> decided_;                 // in which call of the reactor
  std::map<std::pair<int, WorkerId>, int> given_up_;  // by life of the coordinator, likewise
  int decisions_ = 0;
  std::set<AttemptKey> acknowledged_;  // a worker has forgotten this result since it was told that it is safe

  /// A request to cancel jobs: a file that stands until it is answered, whoever dies meanwhile.
  struct CancelRequest {
    std::vector<JobId> jobs;
    int taken_in_life = 0;
  };
  std::vector<CancelRequest> cancel_requests_;
  std::set<JobId> told_cancelled_;  // by an answered request

  std::vector<Worker> workers_;
  Instant spike_until_{};
  Duration spike_{};

  std::unique_ptr<Reactor> reactor_;
  int life_ = 0;
  int boundaries_until_kill_ = -1;
  Instant asleep_until_{};
  std::deque<std::pair<int, ToCoordinator>> inbox_;
  std::vector<Effect> pending_;
  bool flush_scheduled_ = false;
  std::map<int, int> incarnations_;
  std::map<int, std::pair<WorkerId, int>> current_;  // rank → (id, process)
  std::set<WorkerId> known_;                         // to the reactor
  bool stop_sent_ = false;
  bool ended_ = false;
};

}  // namespace finesweep::coordinator
