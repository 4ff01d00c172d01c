#include "worker/agent/runner_pool.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "worker/agent/runner_process.h"

namespace finesweep::worker {

struct RunnerPool::Impl : std::enable_shared_from_this<RunnerPool::Impl> {
  using Clock = std::chrono::steady_clock;

  Impl(boost::asio::io_context& io, Options options)
      : io(io), options(std::move(options)), watch_timer(io), grace_timer(io) {}

  boost::asio::io_context& io;
  Options options;
  Callbacks callbacks;
  /// A process beside the one that runs.
  struct Spare {
    std::shared_ptr<RunnerProcess> process;
    /// It loads libtorch; has; makes a pack ready for nothing, so that it has data, base and kernels; has these.
    enum class Stage { starts, loaded, rehearses, warm };
    Stage stage = Stage::starts;
    std::vector<AttemptKey> prepared;      // the pack that it makes ready; empty: none
    std::optional<Execute> awaits_warmth;  // what it is to make ready once it is warm
    Execute exercise;                      // what it makes ready for nothing until then

    bool is_free() const { return prepared.empty() && !awaits_warmth; }
  };
  std::shared_ptr<RunnerProcess> active;  // runs, or will run, a pack
  std::vector<AttemptKey> running;        // of the active's pack, those that are not done
  std::deque<Spare> spares;               // of the packs behind it, in no order
  std::vector<AttemptKey> next;           // the pack behind it, as it was last said
  std::shared_ptr<RunnerProcess> writer;  // has computed its pack, and writes
  std::vector<AttemptKey> written;        // of the writer's pack, those that are not done
  double memory_share = 1;                // of the device, that the last pack took
  Clock::time_point began{};              // the pack that runs
  std::optional<Clock::duration> lasts;   // a pack, by the latest few
  std::string killed_because;
  bool described = false;  // the device, or that nobody can
  bool closed = false;

  /// The processes of a job on several devices, by rank; empty where it has one.
  struct Member {
    std::shared_ptr<RunnerProcess> process;
    Clock::time_point heard{};
    bool pulses = false;  // it has begun with the job
    bool done = false;    // its part, well
  };
  std::vector<Member> members;
  boost::asio::steady_timer watch_timer, grace_timer;
  Clock::time_point watched{};
  std::optional<Outcome> consequence;  // of another member's loss, which is not known yet

  // A process loads libtorch before it can say anything.
  static constexpr std::chrono::minutes kStart{3};
  static constexpr std::chrono::seconds kWatchEvery{1}, kGrace{2};
  static constexpr double kLittleMemory = 0.2;
  // Beside the one that runs, the one that writes among them.
  static constexpr std::size_t kMostSpares = 2;

  bool one_pack_each() const { return options.device == "cpu"; }

  std::shared_ptr<RunnerProcess> spawn(const std::string& device) {
    auto process = std::make_shared<RunnerProcess>(io);
    const Status status = process->spawn(options.program, device);
    if (!status) {
      spdlog::error("{}", status.error().message);
      return nullptr;
    }
    return process;
  }
  std::shared_ptr<RunnerProcess> spawn() { return spawn(options.device); }

  /// The first process: it says what the device is before there is anything to run.
  void begin() {
    active = spawn();
    if (active) listen(active, 0);
    if (!active) boost::asio::post(io, [self = shared_from_this()] { self->describe(Json::object()); });
  }

  void listen(const std::shared_ptr<RunnerProcess>& process, int rank) {
    process->on_message = [this, rank](Message message) { receive(rank, std::move(message)); };
    process->on_end = [this, rank](std::string why) { ended(rank, std::move(why)); };
  }

  static void ignore(RunnerProcess& process) {
    process.on_message = nullptr;
    process.on_end = nullptr;
  }

  void describe(const Json& device) {
    if (!std::exchange(described, true) && callbacks.ready) callbacks.ready(device);
  }

  void start(const Execute& execute) {
    running = keys_of(execute);
    began = Clock::now();
    killed_because.clear();
    consequence.reset();
    const auto ready = std::ranges::find(spares, running, &Spare::prepared);
    if (ready != spares.end() && is_alive(ready->process)) return begin_prepared(ready);
    // What was made ready was for nothing, and takes memory.
    drop_spares([](const Spare& spare) { return !spare.prepared.empty(); });
    for (Spare& spare : spares) spare.awaits_warmth.reset();
    if (!is_alive(active)) active = spares.empty() ? spawn() : take_spare();
    if (one_pack_each()) drop_spares([](const Spare&) { return true; });
    const int ranks = std::max<int>(1, static_cast<int>(execute.devices.size()));
    std::vector<std::shared_ptr<RunnerProcess>> processes{active};
    for (int rank = 1; rank < ranks; ++rank) processes.push_back(spawn(execute.devices[rank]));
    if (ranks > 1)
      for (const auto& process : processes) members.push_back({process, Clock::now()});
    for (const auto& process : processes) {
      if (process) continue;
      boost::asio::post(
          io, [self = shared_from_this()] { self->crash("the runner cannot be started: see the worker's log"); });
      return;
    }
    for (int rank = 0; rank < ranks; ++rank) {
      listen(processes[rank], rank);
      Execute part = execute;
      part.rank = rank;
      processes[rank]->send(part);
    }
    if (ranks > 1) {
      watched = Clock::now();
      watch();
    }
    if (one_pack_each() && !closed)
      if (auto process = spawn()) spares.push_back({std::move(process)});
  }

  void begin_prepared(std::deque<Spare>::iterator ready) {
    const auto earlier = std::exchange(active, ready->process);
    spares.erase(ready);
    listen(active, 0);
    active->send(Begin{});
    if (is_alive(earlier)) keep(earlier);
  }

  /// The process waits for another pack, and has not the device.
  void keep(const std::shared_ptr<RunnerProcess>& process) {
    ignore(*process);
    if (spares.size() >= (packs_are_brief() ? kMostSpares : 1)) return process->dismiss();
    process->send(LetGo{});
    spares.push_back({process, Spare::Stage::warm});
  }

  std::shared_ptr<RunnerProcess> take_spare() {
    const auto warm = std::ranges::find(spares, Spare::Stage::warm, &Spare::stage);
    const auto taken = warm == spares.end() ? spares.begin() : warm;
    const auto process = taken->process;
    spares.erase(taken);
    return is_alive(process) ? process : spawn();
  }

  /// The device is free for the next pack, if that is ready.
  void hand_over() {
    if (running.empty() || writer || next.empty()) return;
    const auto ready = std::ranges::find(spares, next, &Spare::prepared);
    if (ready == spares.end() || !is_alive(ready->process)) return;
    note_duration();
    writer = std::exchange(active, nullptr);
    written = std::exchange(running, {});
    writer->on_message = [this](Message message) {
      auto* executed = std::get_if<Executed>(&message);
      if (executed == nullptr) return;
      memory_share = executed->memory_share;
      finish_written(executed->attempt, std::move(executed->outcome), false);
    };
    writer->on_end = [this](std::string why) { crash_written(why); };
    if (callbacks.computed) callbacks.computed();
  }

  void note_duration() {
    const Clock::duration last = Clock::now() - began;
    lasts = lasts ? *lasts + (last - *lasts) / 4 : last;
  }
  bool packs_are_brief() const { return lasts && *lasts < options.brief; }

  void finish_written(const AttemptKey& attempt, Outcome outcome, bool crashed) {
    if (std::erase(written, attempt) == 0) return;
    if (written.empty()) end_writing();
    if (callbacks.finished) callbacks.finished(attempt, std::move(outcome), crashed);
  }

  void crash_written(const std::string& why) {
    for (const AttemptKey& attempt : std::vector(written)) finish_written(attempt, crashed_because(why), true);
  }

  void end_writing() {
    const auto process = std::exchange(writer, nullptr);
    if (!is_alive(process)) return;
    if (is_alive(active)) return keep(process);
    active = process;
    listen(active, 0);
  }

  void prepare(const std::vector<Execute>& packs, bool under_way) {
    next = packs.empty() ? std::vector<AttemptKey>{} : keys_of(packs.front());
    if (one_pack_each() || closed || (!under_way && memory_share > kLittleMemory)) return;
    const auto is_to_come = [&](const std::vector<AttemptKey>& pack) {
      return std::ranges::find(packs, pack, keys_of) != packs.end();
    };
    drop_spares([&](const Spare& spare) { return !spare.prepared.empty() && !is_to_come(spare.prepared); });
    for (Spare& spare : spares) spare.awaits_warmth.reset();
    const bool has_room_for_more = packs_are_brief() && memory_share <= kLittleMemory;
    for (const Execute& pack : packs) {
      if (pack.devices.size() > 1) return;
      if (std::ranges::find(spares, keys_of(pack), &Spare::prepared) != spares.end()) continue;
      Spare* spare = free_spare(has_room_for_more ? kMostSpares : 1);
      if (!spare) return;
      spare->awaits_warmth = pack;
      // A training makes more ready than an evaluation.
      const auto training = trains(pack) ? packs.end() : std::ranges::find_if(packs, trains);
      spare->exercise = training == packs.end() ? pack : *training;
      go_on(*spare);
    }
  }

  static bool trains(const Execute& execute) {
    const StepKind kind = execute.pack.front().job.kind;
    return kind == StepKind::finetune || kind == StepKind::distill;
  }

  /// A warm one sooner than one that still loads; null where there are `most` already.
  Spare* free_spare(std::size_t most) {
    Spare* free = nullptr;
    for (Spare& spare : spares)
      if (spare.is_free() && (!free || spare.stage == Spare::Stage::warm)) free = &spare;
    if (free || spares.size() + (writer ? 1 : 0) >= most) return free;
    auto process = spawn();
    if (!process) return nullptr;
    process->on_message = [this, process = process.get()](const Message& message) {
      if (std::holds_alternative<RunnerReady>(message)) came_on(process);
    };
    return &spares.emplace_back(Spare{std::move(process)});
  }

  /// It has loaded libtorch, or has rehearsed.
  void came_on(const RunnerProcess* process) {
    for (Spare& spare : spares) {
      if (spare.process.get() != process) continue;
      spare.stage = spare.stage == Spare::Stage::starts ? Spare::Stage::loaded : Spare::Stage::warm;
      go_on(spare);
    }
  }

  /// Until it is warm the next pack begins sooner in the process that runs.
  static void go_on(Spare& spare) {
    const bool is_warm = spare.stage == Spare::Stage::warm;
    if (!spare.awaits_warmth || (!is_warm && spare.stage != Spare::Stage::loaded)) return;
    Execute ahead = is_warm ? *spare.awaits_warmth : spare.exercise;
    ahead.ahead = true;
    if (is_warm) {
      spare.prepared = keys_of(ahead);
      spare.awaits_warmth.reset();
    } else {
      ahead.rehearsal = true;
      spare.stage = Spare::Stage::rehearses;
    }
    spare.process->send(ahead);
  }

  static std::vector<AttemptKey> keys_of(const Execute& execute) {
    std::vector<AttemptKey> keys;
    for (const auto& member : execute.pack) keys.push_back(member.key());
    return keys;
  }
  static bool is_alive(const std::shared_ptr<RunnerProcess>& process) { return process && process->is_alive(); }
  template <typename Predicate>
  void drop_spares(Predicate is_dropped) {
    std::erase_if(spares, [&](const Spare& spare) {
      const bool dropped = is_dropped(spare) || !is_alive(spare.process);
      if (dropped) spare.process->dismiss();
      return dropped;
    });
  }

  /// The process is gone, or was never there: what is not done has crashed.
  void crash(const std::string& why) {
    for (const AttemptKey& attempt : std::vector(running)) finish(attempt, crashed_because(why), true);
  }

  static Outcome crashed_because(const std::string& why) {
    Outcome outcome;
    outcome.error = why;
    return outcome;
  }

  void finish(const AttemptKey& attempt, Outcome outcome, bool crashed) {
    if (std::erase(running, attempt) == 0) return;
    if (running.empty()) {
      note_duration();
      const bool waits_for_others = !members.empty() && outcome.kind == OutcomeKind::failed;
      dismiss_helpers();
      if ((one_pack_each() || waits_for_others) && active) {
        active->dismiss();
        active.reset();
      }
    }
    if (callbacks.finished) callbacks.finished(attempt, std::move(outcome), crashed);
  }

  void receive(int rank, Message message) {
    if (!members.empty()) members[rank].heard = Clock::now();
    if (auto* progress = std::get_if<ExecuteProgress>(&message)) {
      if (rank == 0 && is_running(progress->attempt) && callbacks.progress)
        callbacks.progress(progress->attempt, progress->progress);
    } else if (auto* executed = std::get_if<Executed>(&message)) {
      if (is_running(executed->attempt)) take_result(rank, std::move(*executed));
    } else if (std::holds_alternative<HasRoom>(message) && rank == 0) {
      let_join();
    } else if (std::holds_alternative<Computed>(message) && members.empty()) {
      hand_over();
    } else if (std::holds_alternative<Pulse>(message) && !members.empty()) {
      members[rank].pulses = true;
    } else if (auto* ready = std::get_if<RunnerReady>(&message); ready && rank == 0) {
      describe(ready->device);
    }
  }

  void let_join() {
    ExecuteMore more;
    if (callbacks.has_room && !running.empty() && members.empty()) more.pack = callbacks.has_room();
    const auto holds = [](const std::vector<AttemptKey>& pack, const AttemptKey& attempt) {
      return std::find(pack.begin(), pack.end(), attempt) != pack.end();
    };
    for (const auto& member : more.pack) {
      running.push_back(member.key());
      drop_spares([&](const Spare& spare) { return holds(spare.prepared, member.key()); });
    }
    active->send(more);
  }

  bool is_running(const AttemptKey& attempt) const {
    return std::find(running.begin(), running.end(), attempt) != running.end();
  }

  void take_result(int rank, Executed executed) {
    if (rank == 0) memory_share = executed.memory_share;
    if (executed.outcome.kind == OutcomeKind::failed && executed.peer_lost && !members.empty()) {
      lost_a_peer(executed.attempt, std::move(executed.outcome));
    } else if (rank == 0 || executed.outcome.kind == OutcomeKind::failed) {
      finish(executed.attempt, std::move(executed.outcome), false);
    } else {
      members[rank].done = true;
    }
  }

  void ended(int rank, std::string why) {
    if (rank == 0) {
      active.reset();
      describe(Json::object());
    }
    if (!members.empty() && members[rank].done) return;
    if (!killed_because.empty())
      why = killed_because;
    else if (!members.empty())
      why = member_name(rank) + ": " + why;
    crash(why);
  }

  // ---- several processes ----

  std::string member_name(int rank) const {
    return "process " + std::to_string(rank + 1) + " of " + std::to_string(members.size()) + " of this job";
  }

  void dismiss_helpers() {
    watch_timer.cancel();
    grace_timer.cancel();
    for (std::size_t rank = 1; rank < members.size(); ++rank)
      if (members[rank].process) members[rank].process->dismiss();
    members.clear();
  }

  /// What became of the one that was lost is about to be heard.
  void lost_a_peer(const AttemptKey& attempt, Outcome outcome) {
    if (consequence) return;
    consequence = std::move(outcome);
    grace_timer.expires_after(kGrace);
    grace_timer.async_wait([self = weak_from_this(), attempt](const boost::system::error_code& error) {
      const auto pool = self.lock();
      if (!error && pool && pool->consequence) pool->finish(attempt, std::move(*pool->consequence), false);
    });
  }

  void watch() {
    const auto now = Clock::now();
    // Who did not look for long has not heard either.
    if (now - watched > kWatchEvery + std::chrono::seconds(2))
      for (Member& member : members) member.heard = now;
    watched = now;
    for (std::size_t rank = 0; rank < members.size(); ++rank) {
      const Member& member = members[rank];
      const Clock::duration limit = member.pulses ? Clock::duration(options.silence) : Clock::duration(kStart);
      if (member.done || now - member.heard < limit) continue;
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit).count();
      return crash(member_name(static_cast<int>(rank)) + " gave no sign of life for " + std::to_string(seconds) +
                   " s: it was stopped, or its machine does not get on");
    }
    watch_timer.expires_after(kWatchEvery);
    watch_timer.async_wait([self = weak_from_this()](const boost::system::error_code& error) {
      const auto pool = self.lock();
      if (!error && pool && !pool->members.empty()) pool->watch();
    });
  }

  void kill(const AttemptKey& attempt, const std::string& reason) {
    if (writer && std::find(written.begin(), written.end(), attempt) != written.end()) {
      writer->on_message = nullptr;
      boost::asio::post(io, [process = writer, reason] { process->gone(reason); });
    }
    if (!active || !is_running(attempt)) return;
    killed_because = reason;
    active->on_message = nullptr;  // or the last result would begin the next pack in a process that is about to end
    auto process = active;
    boost::asio::post(io, [process, reason] { process->gone(reason); });
  }

  void release_device() {
    if (!running.empty() || writer || one_pack_each()) return;
    drop_spares([](const Spare&) { return true; });
    if (active) active->dismiss();
    active.reset();
  }
};

RunnerPool::RunnerPool(boost::asio::io_context& io, Options options)
    : impl_(std::make_shared<Impl>(io, std::move(options))) {
  impl_->begin();
}
RunnerPool::~RunnerPool() {
  shut_down();
}

void RunnerPool::set_callbacks(Callbacks callbacks) {
  impl_->callbacks = std::move(callbacks);
}
void RunnerPool::start(const Execute& execute) {
  impl_->start(execute);
}
void RunnerPool::prepare(const std::vector<Execute>& next, bool under_way) {
  impl_->prepare(next, under_way);
}
void RunnerPool::request_stop(const std::vector<AttemptKey>& attempts) {
  if (impl_->active && !impl_->running.empty()) impl_->active->send(StopExecution{attempts});
}
void RunnerPool::kill(const AttemptKey& attempt, const std::string& reason) {
  impl_->kill(attempt, reason);
}
void RunnerPool::release_device() {
  impl_->release_device();
}
void RunnerPool::shut_down() {
  impl_->closed = true;
  impl_->running.clear();
  impl_->written.clear();
  impl_->dismiss_helpers();
  impl_->drop_spares([](const auto&) { return true; });
  for (auto* process : {&impl_->active, &impl_->writer}) {
    if (*process) (*process)->dismiss();
    process->reset();
  }
}

}  // namespace finesweep::worker
