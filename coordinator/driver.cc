#include "coordinator/driver.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <future>
#include <map>
#include <thread>
#include <utility>

#include "coordinator/cancellation.h"
#include "coordinator/effect_runner.h"
#include "coordinator/presence.h"
#include "coordinator/resume.h"
#include "coordinator/sweep_view.h"
#include "coordinator/unix_time.h"
#include "jobs/crash_point.h"
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
constexpr double kStatusEvery = 1, kStatusMeanwhile = 5;
constexpr double kControlEvery = 0.5;
constexpr double kLockEvery = 2;
// MPI cannot wake a thread: the link is looked at this seldom when all is quiet.
constexpr std::chrono::microseconds kShortestNap{20};
constexpr std::chrono::microseconds kLongestNap{2000};
// How long farewells are waited for at the end, and interrupted jobs when stopping.
constexpr std::chrono::seconds kFarewell{3};
constexpr std::chrono::seconds kStopDeadline{90};
// How long the answer to a request to cancel waits for results that are being published; who asked waits 15 s.
constexpr std::chrono::seconds kPublishingAwaited{10};
// Frames that make no sense, and connections that are refused: so many are told one by one.
constexpr std::int64_t kRefusalsTold = 20;

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
        view(this->plan),
        presence(this->options.reactor.lease),
        runner(store, this->run, link, workers, view, this->show) {}

  struct Written {
    Status status;
    std::string table;  // for the terminal, where it was asked for
  };

  storage::Store& store;
  storage::CoordinatorLock* lock;
  storage::RunDirectory run;
  Plan plan;
  WorkerLink& link;
  std::function<void(const Json&)> show;
  DriverOptions options;
  std::unique_ptr<Reactor> reactor;

  SweepView view;
  WorkersByRank workers;            // present ones
  std::map<int, int> incarnations;  // by rank, the highest ever
  Presence presence;
  EffectRunner runner;
  std::vector<Effect> effects;  // decided, not yet carried out
  std::int64_t started_ms = unix_ms();
  std::int64_t refused_frames = 0, refused_connections = 0;
  std::map<std::string, std::pair<Cancellation, Instant>> cancelling;  // by request; answered by then at the latest
  std::future<Written> reporting;  // valid while reports are written that this request asked for
  std::string reporting_for;
  bool stopping = false;
  std::string broken;  // why the store or the lock failed: nothing can go on

  // ---- input ----

  void handle(const Event& event) {
    auto decided = reactor->handle(event, now());
    effects.insert(effects.end(), std::make_move_iterator(decided.begin()), std::make_move_iterator(decided.end()));
  }

  void take(int rank, const Bytes& bytes) {
    auto message = decode(bytes.data(), bytes.size());
    if (!message) return refuse(rank, message.error().message);
    std::visit([this, rank](auto& m) { receive(rank, m); }, *message);
  }

  /// Counted; the first ones are told and recorded.
  void refuse(int rank, const std::string& why) {
    if (++refused_frames > kRefusalsTold) return;
    spdlog::warn("a frame from rank {} was refused: {}", rank, why);
    runner.remark({{"event", "frame_refused"}, {"rank", rank}, {"reason", why}});
  }

  void tell_refusals() {
    for (const std::string& why : link.refused()) {
      if (++refused_connections > kRefusalsTold) continue;
      spdlog::warn("a connection was refused: {}", why);
      runner.remark({{"event", "connection_refused"}, {"reason", why}});
    }
  }

  /// A worker that had joined vanished, or was ended without a goodbye.
  void connection_closed(int rank) {
    const auto worker = workers.find(rank);
    if (worker == workers.end()) return;
    const WorkerId id = worker->second.id;
    const std::string reason = "its connection closed";
    runner.remark({{"event", "worker_lost"}, {"worker", to_string(id)}, {"reason", reason}});
    workers.erase(worker);
    presence.left(rank);
    handle(WorkerLost{id, reason});
  }

  void receive(int rank, const Hello& hello) {
    const WorkerId id{rank, ++incarnations[rank]};
    const WorkerInfo info{hello.host, hello.device, hello.memory_mb};
    workers[rank] = {id, info};
    presence.heard(rank, now());
    const bool on_gpu = hello.device.starts_with("cuda");
    link.send(rank,
              encode(Welcome{id, run.path().string(), options.heartbeat_s, options.no_progress_s, options.threads,
                             on_gpu ? options.reactor.max_pack_jobs : options.reactor.max_pack_jobs_on_cpu}));
    runner.remark(
        {{"event", "worker_joined"}, {"worker", to_string(id)}, {"host", hello.host}, {"device", hello.device}});
    handle(WorkerJoined{id, info});
  }

  void receive(int rank, const Heartbeat& heartbeat) {
    if (!spoken_by(rank, heartbeat.worker)) return;
    presence.heard(rank, now());
    HeartbeatArrived event{heartbeat.worker, {}};
    for (const auto& held : heartbeat.held) {
      event.held.emplace_back(held.attempt, held.progress);
      // What is dispatched waits in its worker's queue; it has started once it shows progress.
      if (!held.progress.phase.empty()) runner.note_start(heartbeat.worker, held.attempt);
    }
    handle(event);
  }

  void receive(int rank, Finished& finished) {
    if (!spoken_by(rank, finished.worker)) return;
    handle(AttemptFinished{finished.worker, finished.attempt, std::move(finished.outcome), finished.crashed});
  }

  void receive(int rank, const Revoked& revoked) {
    if (spoken_by(rank, revoked.worker)) handle(AttemptRevoked{revoked.worker, revoked.attempt});
  }

  void receive(int rank, const PackGrew& grew) {
    if (spoken_by(rank, grew.worker)) handle(AttemptsJoined{grew.worker, grew.pack, grew.joined});
  }

  void receive(int rank, const Goodbye& goodbye) {
    if (!spoken_by(rank, goodbye.worker)) return;
    if (!stopping) runner.remark({{"event", "worker_left"}, {"worker", to_string(goodbye.worker)}});
    workers.erase(rank);
    presence.left(rank);
    handle(WorkerLost{goodbye.worker, "it left"});
  }

  template <typename Other>
  void receive(int rank, const Other&) {
    refuse(rank, "the message is not for a coordinator");
  }

  /// A rank speaks for itself alone.
  bool spoken_by(int rank, const WorkerId& worker) {
    if (worker.rank == rank) return true;
    refuse(rank, "it speaks in the name of worker " + to_string(worker));
    return false;
  }

  void answer_requests() {
    auto requests = storage::pending_requests(run.control());
    if (!requests) return;
    for (const auto& request : *requests) {
      const auto answer = carry_out(request);
      if (!answer) continue;
      if (const Status answered = storage::answer_request(run.control(), request.id, *answer); !answered)
        spdlog::warn("{}", answered.error().message);
    }
  }

  /// Absent where it is not to be answered yet; the request is found again.
  std::optional<Json> carry_out(const storage::ControlRequest& request) {
    if (request.kind == "report") return report(request);
    if (request.kind == "cancel") return cancel(request);
    return Json{{"ok", false}, {"error", "this finesweep knows no request '" + request.kind + "'"}};
  }

  /// Answered once it is recorded. A job whose result is being published may still succeed, and would be run again
  /// where this coordinator died meanwhile: so long the request stands unanswered, for the next one to find.
  std::optional<Json> cancel(const storage::ControlRequest& request) {
    if (!cancelling.contains(request.id)) {
      std::vector<std::string> wanted;
      for (const Json& trial : request.payload.value("trials", Json::array()))
        if (trial.is_string()) wanted.push_back(trial.get<std::string>());
      auto cancellation =
          plan_cancellation(plan, wanted, [this](const JobId& id) { return reactor->view(id).phase; });
      handle(CancelRequested{cancellation.jobs});
      flush();
      if (!broken.empty()) return Json{{"ok", false}, {"error", broken}};
      cancelling[request.id] = {std::move(cancellation), now() + kPublishingAwaited};
    }
    auto& [cancellation, until] = cancelling.at(request.id);
    const bool undecided = std::any_of(cancellation.jobs.begin(), cancellation.jobs.end(), [this](const JobId& id) {
      return reactor->view(id).phase == JobPhase::publishing;
    });
    if (undecided && now() < until) return std::nullopt;
    Json answer = std::move(cancellation.answer);
    cancelling.erase(request.id);
    return answer;
  }

  /// Begins to write all reports of what is recorded now, in a thread of its own: those of a large sweep take
  /// minutes.
  std::future<Written> write_reports(bool with_table) {
    auto jobs = store.load_jobs();
    return std::async(std::launch::async, [this, jobs = std::move(jobs), with_table]() mutable -> Written {
      if (!jobs) return {jobs.error(), ""};
      const reports::RunData data = reports::read_run_data(plan, std::move(*jobs), run);
      const Status written = reports::write_reports(data, run.reports());
      return {written, with_table && written ? reports::terminal_table(data) : ""};
    });
  }

  /// One at a time, as all write the same files; the sweep goes on meanwhile.
  std::optional<Json> report(const storage::ControlRequest& request) {
    const auto is_ready = [this] {
      return reporting.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    };
    if (reporting.valid() && reporting_for != request.id) {
      if (!is_ready()) return std::nullopt;
      reporting = {};  // whoever asked for it has gone
    }
    if (!reporting.valid()) {
      reporting = write_reports(false);
      reporting_for = request.id;
    }
    if (!is_ready()) return std::nullopt;
    const Status written = reporting.get().status;
    return written ? Json{{"ok", true}} : Json{{"ok", false}, {"error", written.error().message}};
  }

  Written write_last_reports(bool with_table) {
    if (reporting.valid()) await(reporting);
    auto writing = write_reports(with_table);
    await(writing);
    return writing.get();
  }

  /// Meanwhile the lock is held, and status.json shows that this process lives.
  void await(const std::future<Written>& writing) {
    Every status(kStatusMeanwhile), holding(kLockEvery);
    while (writing.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) {
      if (status.due(now())) put_status(StatusSnapshot::State::running, std::nullopt);
      if (lock && holding.due(now()))
        if (const Status held = lock->heartbeat(); !held) spdlog::warn("{}", held.error().message);
    }
  }

  // ---- who is there ----

  /// A launcher that keeps the other ranks when one dies tells nobody: workers hear that the coordinator lives, and
  /// who is silent is no longer spoken to. False where no worker has been there for long: then nothing can go on.
  bool attend_workers(Instant time) {
    for (const int rank : presence.lost(time)) {
      const auto worker = workers.find(rank);
      if (worker == workers.end()) continue;
      runner.remark({{"event", "worker_lost"},
                     {"worker", to_string(worker->second.id)},
                     {"reason", "no sign of life from " + worker->second.info.host}});
      workers.erase(worker);
    }
    for (const auto& [rank, worker] : workers) link.send(rank, encode(Alive{}));
    return !presence.deserted(time) || reactor->counts().publishing > 0;
  }

  // ---- output ----

  /// Carries out all that is decided, and what follows from that.
  void flush() {
    react_to(runner.record_published(*reactor));
    while (broken.empty() && (!effects.empty() || runner.has_remarks())) {
      react_to(runner.carry_out(*reactor, std::exchange(effects, {})));
    }
  }

  void react_to(const Result<std::vector<Event>>& answers) {
    if (!answers) {
      broken = answers.error().message;
      return;
    }
    for (const Event& answer : *answers) handle(answer);
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
    reactor = std::make_unique<Reactor>(options.reactor, plan.jobs, *history, options.packing);
    const Counts before = reactor->counts();
    runner.finished_jobs = before.succeeded + before.failed + before.cancelled;
    runner.remark({{"event", "sweep_started"},
                   {"sweep", plan.name},
                   {"directory", run.path().string()},
                   {"trials", plan.trials.size()},
                   {"jobs", plan.jobs.size()},
                   {"done", runner.finished_jobs},
                   {"workers", options.workers}});
    put_status(StatusSnapshot::State::running, std::nullopt);
    handle(Tick{});

    // The status of a long sweep costs more to write: never more than a few per cent of the time.
    Every tick(kTickEvery), progress(kProgressEvery), status(kStatusEvery), control(kControlEvery),
        holding(kLockEvery), attention(options.heartbeat_s);
    auto nap = kShortestNap;
    SteadyClock::time_point stop_by{};
    while (!reactor->ended() && broken.empty()) {
      const auto received = link.receive();
      for (const auto& [rank, frame, closed] : received) closed ? connection_closed(rank) : take(rank, frame);
      tell_refusals();
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
      if (attention.due(time) && !attend_workers(time)) {
        spdlog::error("no worker is left");
        break;
      }
      if (tick.due(time)) handle(Tick{});
      flush();
      runner.clear_staging();
      if (progress.due(time)) show(view.progress_record(*reactor, workers.size()));
      if (status.due(time)) {
        put_status(StatusSnapshot::State::running, std::nullopt);
        // A snapshot of a huge sweep takes a while: no more than a few per cent of the time goes into them.
        status.postpone(std::min((now() - time) * 30, Instant(std::chrono::seconds(8))));
      }
      if (control.due(time)) answer_requests();
      if (lock && holding.due(time)) {
        if (const Status held = lock->heartbeat(); !held) broken = held.error().message;
        if (!run.holds_run()) broken = run.database().string() + " was removed; this coordinator stops";
      }
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
    crash_point("reports.before_write");
    const auto [reported, table] = write_last_reports(complete);
    crash_point("reports.written");
    Json ended{{"event", "sweep_ended"},
               {"state", std::string(storage::status_state_name(state))},
               {"exit_code", exit_code},
               {"succeeded", last.trials.succeeded},
               {"failed", last.trials.failed},
               {"cancelled", last.trials.cancelled},
               {"pending", last.trials.pending + last.trials.running},
               {"report", reported ? (run.reports() / "report.md").string() : ""}};
    if (refused_frames > 0) ended["refused_frames"] = refused_frames;
    if (refused_connections > 0) ended["refused_connections"] = refused_connections;
    if (!reported) spdlog::error("{}", reported.error().message);
    if (!table.empty()) show({{"event", "text"}, {"text", "\n" + table}});
    runner.remark(std::move(ended));
    flush();
    dismiss_workers();
    crash_point("sweep.before_end");
    put_status(state, exit_code);
    crash_point("sweep.ended");
    return broken.empty() ? exit_code : 4;
  }

  void dismiss_workers() {
    for (const auto& [rank, worker] : workers) link.send(rank, encode(Stop{}));
    // Those that have not said Hello yet would wait for an answer for ever.
    for (int rank = 1; rank <= options.workers; ++rank)
      if (!incarnations.contains(rank)) link.send(rank, encode(Stop{}));
    const auto until = SteadyClock::now() + kFarewell;
    while (!workers.empty() && SteadyClock::now() < until) {
      for (const auto& [rank, frame, closed] : link.receive()) {
        const auto message = decode(frame.data(), frame.size());
        if (closed || (message && std::holds_alternative<Goodbye>(*message))) workers.erase(rank);
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
