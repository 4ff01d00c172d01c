#include "coordinator/driver.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <thread>

#include "coordinator/resume.h"
#include "coordinator/sweep_view.h"
#include "coordinator/unix_time.h"
#include "jobs/messages.h"
#include "reports/report.h"
#include "storage/control.h"
#include "storage/status_file.h"

namespace finesweep::coordinator {

using storage::StatusSnapshot;
using SteadyClock = std::chrono::steady_clock;

namespace {

volatile std::sig_atomic_t stop_wanted = 0;

// How often, in seconds.
constexpr double kTickEvery = 0.25;
constexpr double kProgressEvery = 0.25;
constexpr double kStatusEvery = 1;
constexpr double kControlEvery = 0.5;
constexpr double kLockEvery = 2;
// MPI cannot wake a thread: the link is looked at this seldom when all is quiet.
constexpr std::chrono::microseconds kShortestNap{20};
constexpr std::chrono::microseconds kLongestNap{2000};
// How long farewells are waited for at the end, and interrupted jobs when stopping.
constexpr std::chrono::seconds kFarewell{3};
constexpr std::chrono::seconds kStopDeadline{90};

Instant now() {
  return SteadyClock::now().time_since_epoch();
}

/// True every `seconds`.
class Every {
 public:
  explicit Every(double seconds)
      : period_(std::chrono::duration_cast<Instant>(std::chrono::duration<double>(seconds))) {}
  bool due(Instant time) {
    if (time < next_) return false;
    next_ = time + period_;
    return true;
  }
  void postpone(Instant delay) { next_ += delay; }

 private:
  Instant period_, next_{};
};

AttemptEnd to_attempt_end(RecordAttemptEnd::Reason reason) {
  switch (reason) {
    case RecordAttemptEnd::Reason::failed:
      return AttemptEnd::failed;
    case RecordAttemptEnd::Reason::interrupted:
      return AttemptEnd::interrupted;
    case RecordAttemptEnd::Reason::lost:
      return AttemptEnd::lost;
    case RecordAttemptEnd::Reason::cancelled:
      return AttemptEnd::cancelled;
    case RecordAttemptEnd::Reason::superseded:
      return AttemptEnd::superseded;
  }
  return AttemptEnd::failed;
}

std::string_view reason_name(RecordAttemptEnd::Reason reason) {
  switch (reason) {
    case RecordAttemptEnd::Reason::failed:
      return "failed";
    case RecordAttemptEnd::Reason::interrupted:
      return "stopped";
    case RecordAttemptEnd::Reason::lost:
      return "lost";
    case RecordAttemptEnd::Reason::cancelled:
      return "cancelled";
    case RecordAttemptEnd::Reason::superseded:
      return "moved";
  }
  return "";
}

}  // namespace

void Driver::request_stop() {
  stop_wanted = 1;
}

struct Driver::Impl {
  Impl(storage::Store& store, storage::CoordinatorLock* lock, storage::RunDirectory run, Plan plan,
       WorkerLink& link, std::function<void(const Json&)> show, DriverOptions options)
      : store(store),
        lock(lock),
        run(std::move(run)),
        plan(std::move(plan)),
        link(link),
        show(std::move(show)),
        options(std::move(options)),
        view(this->plan) {}

  storage::Store& store;
  storage::CoordinatorLock* lock;
  storage::RunDirectory run;
  Plan plan;
  WorkerLink& link;
  std::function<void(const Json&)> show;
  DriverOptions options;
  std::unique_ptr<Reactor> reactor;

  SweepView view;
  std::map<int, SweepView::WorkerEntry> workers;  // by rank, present ones
  std::map<int, int> incarnations;                // by rank, the highest ever
  std::vector<Effect> effects;                    // decided, not yet carried out
  std::vector<storage::Change> remarks;           // events beside state changes
  std::map<AttemptKey, Instant> started;          // when an attempt was seen to have begun
  std::int64_t started_ms = unix_ms();
  std::int64_t finished_jobs = 0;
  bool stopping = false;
  std::string broken;  // why the store or the lock failed: nothing can go on

  // ---- input ----

  void handle(const Event& event) {
    auto decided = reactor->handle(event, now());
    effects.insert(effects.end(), std::make_move_iterator(decided.begin()), std::make_move_iterator(decided.end()));
  }

  void take(int rank, const Bytes& bytes) {
    auto message = decode(bytes.data(), bytes.size());
    if (!message) {
      spdlog::warn("a frame from rank {} was refused: {}", rank, message.error().message);
      return;
    }
    std::visit([this, rank](auto& m) { receive(rank, m); }, *message);
  }

  void receive(int rank, const Hello& hello) {
    const WorkerId id{rank, ++incarnations[rank]};
    const WorkerInfo info{hello.host, hello.device};
    workers[rank] = {id, info};
    link.send(rank, encode(Welcome{id, run.path().string(), options.heartbeat_s, options.no_progress_s,
                                   options.threads}));
    remark({{"event", "worker_joined"}, {"worker", to_string(id)}, {"host", hello.host}, {"device", hello.device}});
    handle(WorkerJoined{id, info});
  }

  void receive(int rank, const Heartbeat& heartbeat) {
    if (!spoken_by(rank, heartbeat.worker)) return;
    HeartbeatArrived event{heartbeat.worker, {}};
    for (const auto& held : heartbeat.held) {
      event.held.emplace_back(held.attempt, held.progress);
      if (!held.progress.phase.empty()) note_start(heartbeat.worker, held.attempt);
    }
    handle(event);
  }

  /// What is dispatched waits in its worker's queue; it has started once it shows progress.
  void note_start(const WorkerId& worker, const AttemptKey& attempt) {
    if (!started.emplace(attempt, now()).second) return;
    show({{"event", "attempt_started"},
          {"job", attempt.job},
          {"title", title(attempt.job)},
          {"attempt", attempt.number},
          {"worker", to_string(worker)}});
  }

  void receive(int rank, Finished& finished) {
    if (!spoken_by(rank, finished.worker)) return;
    handle(AttemptFinished{finished.worker, finished.attempt, std::move(finished.outcome), finished.crashed});
  }

  void receive(int rank, const Goodbye& goodbye) {
    if (!spoken_by(rank, goodbye.worker)) return;
    workers.erase(rank);
    handle(WorkerLost{goodbye.worker, "it left"});
  }

  template <typename Other>
  void receive(int rank, const Other&) {
    spdlog::warn("rank {} sent a message that is not for a coordinator: refused", rank);
  }

  /// A rank speaks for itself alone.
  bool spoken_by(int rank, const WorkerId& worker) {
    if (worker.rank == rank) return true;
    spdlog::warn("rank {} sent a message in the name of worker {}: refused", rank, to_string(worker));
    return false;
  }

  void remark(Json event) {
    show(event);
    remarks.push_back(storage::EventLogged{std::move(event), unix_ms()});
  }

  void answer_requests() {
    auto requests = storage::pending_requests(run.control());
    if (!requests) return;
    for (const auto& request : *requests) {
      Json answer{{"ok", true}};
      if (request.kind == "report") {
        auto written = write_all_reports();
        if (!written) answer = {{"ok", false}, {"error", written.error().message}};
      } else {
        answer = {{"ok", false}, {"error", "this finesweep knows no request '" + request.kind + "'"}};
      }
      if (const Status answered = storage::answer_request(run.control(), request.id, answer); !answered)
        spdlog::warn("{}", answered.error().message);
    }
  }

  Status write_all_reports() {
    auto data = reports::read_run_data(store);
    if (!data) return data.error();
    return reports::write_reports(*data, run.reports());
  }

  // ---- output ----

  const std::string& title(const JobId& id) const { return view.title(id); }

  /// Carries out all that is decided: records first, in one durable transaction, then sends.
  void flush() {
    while (broken.empty() && (!effects.empty() || !remarks.empty())) {
      std::vector<Effect> round;
      round.swap(effects);
      std::vector<storage::Change> changes;
      changes.swap(remarks);
      std::vector<std::pair<int, Bytes>> sends;
      std::vector<Event> answers;
      std::vector<Json> shown;
      for (const Effect& effect : round)
        std::visit([&](const auto& e) { carry_out(e, changes, sends, answers, shown); }, effect);
      if (!changes.empty()) {
        if (const Status applied = store.apply(changes); !applied) {
          broken = applied.error().message;
          return;
        }
      }
      for (auto& [rank, frame] : sends) link.send(rank, std::move(frame));
      for (const Json& record : shown) show(record);
      for (const Event& answer : answers) handle(answer);
    }
  }

  using Changes = std::vector<storage::Change>;
  using Sends = std::vector<std::pair<int, Bytes>>;

  template <typename Message>
  void send(const WorkerId& worker, const Message& message, Sends& sends) {
    const auto found = workers.find(worker.rank);
    if (found != workers.end() && found->second.id == worker) sends.emplace_back(worker.rank, encode(message));
  }

  void carry_out(const RecordAttempt& e, Changes& changes, Sends&, std::vector<Event>&, std::vector<Json>&) {
    const auto worker = workers.find(e.worker.rank);
    const std::string host = worker == workers.end() ? "" : worker->second.info.host;
    changes.push_back(storage::AttemptStarted{e.attempt, e.worker.rank, host, unix_ms()});
  }

  void carry_out(const RecordAttemptEnd& e, Changes& changes, Sends&, std::vector<Event>&,
                 std::vector<Json>& shown) {
    started.erase(e.attempt);
    changes.push_back(storage::AttemptEnded{e.attempt, to_attempt_end(e.reason), e.error, unix_ms()});
    changes.push_back(storage::JobCounters{e.attempt.job, e.failures, e.losses});
    shown.push_back({{"event", "attempt_ended"},
                     {"job", e.attempt.job},
                     {"title", title(e.attempt.job)},
                     {"attempt", e.attempt.number},
                     {"reason", std::string(reason_name(e.reason))},
                     {"error", e.error}});
  }

  void carry_out(const RecordJobEnd& e, Changes& changes, Sends&, std::vector<Event>&, std::vector<Json>& shown) {
    if (e.cancelled)
      changes.push_back(storage::JobCancelled{e.job, e.error, unix_ms()});
    else
      changes.push_back(storage::JobFailed{e.job, e.error, unix_ms()});
    ++finished_jobs;
    shown.push_back({{"event", e.cancelled ? "job_cancelled" : "job_failed"},
                     {"job", e.job},
                     {"title", title(e.job)},
                     {"error", e.error}});
  }

  void carry_out(const Publish& e, Changes& changes, Sends&, std::vector<Event>& answers,
                 std::vector<Json>& shown) {
    Outcome outcome = e.outcome;
    if (outcome.has_artifact) {
      auto published = run.publish(e.attempt);
      if (!published) {
        answers.push_back(PublishFailed{e.attempt, published.error().message});
        return;
      }
      // Where an earlier attempt's artifact stands already, its outcome is the job's.
      outcome = std::move(published->outcome);
    }
    changes.push_back(storage::AttemptEnded{e.attempt, AttemptEnd::succeeded, "", unix_ms()});
    changes.push_back(storage::JobSucceeded{e.attempt, outcome, unix_ms()});
    ++finished_jobs;
    double seconds = 0;
    if (const auto begun = started.find(e.attempt); begun != started.end()) {
      seconds = std::chrono::duration<double>(now() - begun->second).count();
      started.erase(begun);
    }
    if (const auto measured = outcome.metrics.find("seconds"); measured != outcome.metrics.end())
      seconds = measured->second;
    view.learn_pace(reactor->job(e.attempt.job).kind, seconds);
    shown.push_back({{"event", "job_succeeded"},
                     {"job", e.attempt.job},
                     {"title", title(e.attempt.job)},
                     {"seconds", seconds},
                     {"done", finished_jobs},
                     {"jobs", plan.jobs.size()}});
    answers.push_back(Published{e.attempt});
    published_now.push_back(e.attempt.job);
  }
  std::vector<JobId> published_now;  // their staging folders are no longer needed once the commit is done

  void carry_out(const SendDispatch& e, Changes&, Sends& sends, std::vector<Event>&, std::vector<Json>&) {
    Dispatch dispatch{e.worker, {}};
    for (const AttemptKey& attempt : e.pack) dispatch.pack.push_back({reactor->job(attempt.job), attempt.number});
    send(e.worker, dispatch, sends);
  }
  void carry_out(const SendAcknowledge& e, Changes&, Sends& sends, std::vector<Event>&, std::vector<Json>&) {
    send(e.worker, Acknowledge{e.attempt, e.accepted}, sends);
  }
  void carry_out(const SendRevoke& e, Changes&, Sends& sends, std::vector<Event>&, std::vector<Json>&) {
    send(e.worker, Revoke{e.attempt}, sends);
  }
  void carry_out(const SendStop& e, Changes&, Sends& sends, std::vector<Event>&, std::vector<Json>&) {
    send(e.worker, Stop{}, sends);
  }
  void carry_out(const SendRejoin& e, Changes&, Sends& sends, std::vector<Event>&, std::vector<Json>&) {
    sends.emplace_back(e.worker.rank, encode(Rejoin{}));
  }
  void carry_out(const SweepEnded&, Changes&, Sends&, std::vector<Event>&, std::vector<Json>&) {}

  void clear_staging() {
    for (const JobId& job : published_now)
      if (const Status removed = run.remove_staging(job); !removed) spdlog::warn("{}", removed.error().message);
    published_now.clear();
  }

  StatusSnapshot snapshot(StatusSnapshot::State state, std::optional<int> exit_code) const {
    StatusSnapshot status = view.snapshot(*reactor, workers);
    status.state = state;
    status.exit_code = exit_code;
    status.message = broken;
    status.host = options.host;
    status.pid = getpid();
    if (const char* slurm = std::getenv("SLURM_JOB_ID")) status.slurm_job = slurm;
    status.started_ms = started_ms;
    status.heartbeat_ms = unix_ms();
    return status;
  }

  void put_status(StatusSnapshot::State state, std::optional<int> exit_code) {
    if (const Status written = storage::write_status(run.status_file(), snapshot(state, exit_code)); !written)
      spdlog::warn("{}", written.error().message);
  }

  // ---- the loop ----

  int work() {
    const auto history = resume(store, run, plan, options.retry_failed);
    if (!history) {
      spdlog::critical("{}", history.error().message);
      return 4;
    }
    reactor = std::make_unique<Reactor>(options.reactor, plan.jobs, *history);
    const Counts before = reactor->counts();
    finished_jobs = before.succeeded + before.failed + before.cancelled;
    remark({{"event", "sweep_started"},
            {"sweep", plan.name},
            {"directory", run.path().string()},
            {"trials", plan.trials.size()},
            {"jobs", plan.jobs.size()},
            {"done", finished_jobs},
            {"workers", options.workers}});
    put_status(StatusSnapshot::State::running, std::nullopt);
    handle(Tick{});

    // The status of a long sweep costs more to write: never more than a few per cent of the time.
    Every tick(kTickEvery), progress(kProgressEvery), status(kStatusEvery), control(kControlEvery),
        holding(kLockEvery);
    auto nap = kShortestNap;
    SteadyClock::time_point stop_by{};
    while (!reactor->ended() && broken.empty()) {
      const auto received = link.receive();
      for (const auto& [rank, frame] : received) take(rank, frame);
      if (stop_wanted && !stopping) {
        stopping = true;
        stop_by = SteadyClock::now() + kStopDeadline;
        handle(StopRequested{});
      }
      if (stopping && SteadyClock::now() > stop_by) {
        spdlog::warn("some jobs did not stop in time; they are resumed from their latest checkpoint");
        break;
      }
      const Instant time = now();
      if (tick.due(time)) handle(Tick{});
      flush();
      clear_staging();
      if (progress.due(time)) show(view.progress_record(*reactor, workers.size()));
      if (status.due(time)) {
        put_status(StatusSnapshot::State::running, std::nullopt);
        // A snapshot of a huge sweep takes a while: no more than a few per cent of the time goes into them.
        status.postpone(std::min((now() - time) * 30, Instant(std::chrono::seconds(8))));
      }
      if (control.due(time)) answer_requests();
      if (lock && holding.due(time))
        if (const Status held = lock->heartbeat(); !held) broken = held.error().message;
      if (received.empty()) {
        std::this_thread::sleep_for(nap);
        nap = std::min(nap * 2, kLongestNap);
      } else {
        nap = kShortestNap;
      }
    }
    return finish();
  }

  int finish() {
    if (!broken.empty()) {
      spdlog::critical("{}", broken);
      put_status(StatusSnapshot::State::failed, 4);
      return 4;
    }
    const Counts counts = reactor->counts();
    const bool complete = counts.waiting + counts.ready + counts.running + counts.publishing == 0;
    const int exit_code = !complete ? 3 : counts.failed + counts.cancelled > 0 ? 1 : 0;
    const auto state = complete ? StatusSnapshot::State::finished : StatusSnapshot::State::interrupted;
    const StatusSnapshot last = snapshot(state, exit_code);
    const Status reported = write_all_reports();
    Json ended{{"event", "sweep_ended"},
               {"state", std::string(storage::status_state_name(state))},
               {"exit_code", exit_code},
               {"succeeded", last.trials.succeeded},
               {"failed", last.trials.failed + last.trials.cancelled},
               {"pending", last.trials.pending + last.trials.running},
               {"report", reported ? (run.reports() / "report.md").string() : ""}};
    if (!reported) spdlog::error("{}", reported.error().message);
    if (complete && reported)
      if (auto data = reports::read_run_data(store))
        show({{"event", "text"}, {"text", "\n" + reports::terminal_table(*data)}});
    remark(std::move(ended));
    flush();
    dismiss_workers();
    put_status(state, exit_code);
    return broken.empty() ? exit_code : 4;
  }

  void dismiss_workers() {
    for (const auto& [rank, worker] : workers) link.send(rank, encode(Stop{}));
    const auto until = SteadyClock::now() + kFarewell;
    while (!workers.empty() && SteadyClock::now() < until) {
      for (const auto& [rank, frame] : link.receive()) {
        auto message = decode(frame.data(), frame.size());
        if (message && std::holds_alternative<Goodbye>(*message)) workers.erase(rank);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
};

Driver::Driver(storage::Store& store, storage::CoordinatorLock* lock, storage::RunDirectory run, Plan plan,
               WorkerLink& link, std::function<void(const Json&)> show, DriverOptions options)
    : impl_(std::make_unique<Impl>(store, lock, std::move(run), std::move(plan), link, std::move(show),
                                   std::move(options))) {}
Driver::~Driver() = default;

int Driver::run() {
  return impl_->work();
}

}  // namespace finesweep::coordinator
