#include "worker/agent/agent.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <optional>

#include "jobs/crash_point.h"
#include "storage/run_directory.h"

namespace finesweep::worker {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using std::chrono::microseconds;

namespace {

// MPI cannot wake a thread, so the link is looked at: at once while words are exchanged, and seldom when all is
// quiet.
constexpr microseconds kShortestLook{50};
constexpr microseconds kLongestLook{5000};
// Silence after which the coordinator is taken for dead. Before its first word it reads models and data.
constexpr std::chrono::seconds kSilence{120}, kFirstSilence{3600};
// Packs that the runner hears of before their turn.
constexpr std::size_t kAhead = 2;
// A runner that has not said by then what its GPU is may be hanging: jobs show whether it is.
constexpr std::chrono::seconds kDescription{60};

AttemptKey key_of(const Assignment& assignment) {
  return {assignment.job.id, assignment.attempt};
}

}  // namespace

struct Agent::Impl {
  Impl(boost::asio::io_context& io, CoordinatorLink& link, JobRunner& runner, Options options)
      : io(io),
        link(link),
        runner(runner),
        options(std::move(options)),
        look_timer(io),
        heartbeat_timer(io),
        description_timer(io) {}

  boost::asio::io_context& io;
  CoordinatorLink& link;
  JobRunner& runner;
  Options options;
  boost::asio::steady_timer look_timer, heartbeat_timer, description_timer;
  microseconds look_delay = kShortestLook;

  std::optional<Welcome> welcome;  // absent until the coordinator has answered Hello
  using Pack = std::vector<Assignment>;
  std::deque<Pack> queue;  // waiting, in the order of dispatch
  struct Member {
    AttemptKey attempt;
    PackTraits traits;
    Progress progress;
    bool revoked = false;  // how it ends concerns nobody, only that it has
  };
  struct RunningPack {
    std::vector<Member> members;   // those that are done have left
    Clock::time_point moved;       // when one of them last made progress
    bool under_way = false;        // they have made progress at all
    bool may_be_disturbed = true;  // nobody compares their times

    bool empty() const { return members.empty(); }
    bool concerns_somebody() const {
      return std::any_of(members.begin(), members.end(), [](const Member& member) { return !member.revoked; });
    }
    Member* find(const AttemptKey& attempt) {
      const auto found = std::ranges::find(members, attempt, &Member::attempt);
      return found == members.end() ? nullptr : &*found;
    }
  };
  RunningPack running;  // has the device
  RunningPack written;  // has computed: only its results are still to come
  bool said_hello = false;
  bool awaits_welcome = false;  // the answer to the last Hello
  bool hello_waits = false;     // for what runs to end
  std::map<AttemptKey, Finished> unacknowledged;
  bool stopping = false, ended = false;
  Clock::time_point heard = Clock::now();  // when the coordinator last gave a sign of life
  bool deserted = false;

  void send(const Message& message) {
    look_delay = kShortestLook;
    link.send(encode(message));
  }

  void look() {
    const auto frames = link.receive();
    look_delay = frames.empty() ? std::min(look_delay * 2, kLongestLook) : kShortestLook;
    if (!frames.empty()) heard = Clock::now();
    if (Clock::now() - heard > (welcome ? kSilence : kFirstSilence))
      return desert("the coordinator gave no sign of life for long");
    for (const Bytes& bytes : frames) {
      auto message = decode(bytes.data(), bytes.size());
      if (!message) {
        spdlog::warn("a frame from the coordinator was refused: {}", message.error().message);
        continue;
      }
      std::visit([this](auto& m) { receive(m); }, *message);
    }
    if (ended) return;
    if (link.closed()) return desert("the coordinator is gone");
    look_timer.expires_after(look_delay);
    look_timer.async_wait([this](const boost::system::error_code& error) {
      if (!error) look();
    });
  }

  /// The coordinator died under a launcher that keeps the other ranks (srun), or this worker had joined it. What
  /// runs goes on from its checkpoint in the sweep's next life.
  void desert(const char* why) {
    spdlog::error("{}: this worker lets go of its jobs", why);
    deserted = true;
    runner.shut_down();
    heartbeat_timer.cancel();
    description_timer.cancel();
    io.stop();
  }

  void receive(const Alive&) {}

  void receive(const Welcome& message) {
    welcome = message;
    awaits_welcome = false;
    beat();
  }

  void receive(Dispatch& message) {
    if (!welcome || message.worker != welcome->worker) return;  // meant for an earlier stay of this worker
    if (!message.pack.empty()) queue.push_back(std::move(message.pack));
    crash_point("worker.dispatched");
    run_next();
    prepare_next();
  }

  void receive(const Acknowledge& message) {
    unacknowledged.erase(message.attempt);
    crash_point("worker.acknowledged");
    finish_stopping();
  }

  void receive(const Revoke& message) {
    for (Pack& pack : queue)
      std::erase_if(pack, [&](const Assignment& waiting) { return key_of(waiting) == message.attempt; });
    std::erase_if(queue, [](const Pack& pack) { return pack.empty(); });
    unacknowledged.erase(message.attempt);
    RunningPack* pack = pack_of(message.attempt);
    if (!pack) {
      say_revoked(message.attempt);
      return finish_stopping();
    }
    Member& member = *pack->find(message.attempt);
    if (member.revoked) return;
    member.revoked = true;
    if (pack->concerns_somebody())
      runner.request_stop({message.attempt});  // the others go on
    else
      kill(*pack, "revoked");
  }

  RunningPack* pack_of(const AttemptKey& attempt) {
    for (RunningPack* pack : {&running, &written})
      if (pack->find(attempt)) return pack;
    return nullptr;
  }
  bool is_idle() const { return running.empty() && written.empty(); }

  void kill(const RunningPack& pack, const std::string& reason) {
    runner.kill(pack.members.front().attempt, reason);
  }

  void say_revoked(const AttemptKey& attempt) {
    if (welcome) send(Revoked{welcome->worker, attempt});
  }

  void receive(const Lend&) {
    if (is_idle()) runner.release_device();
  }

  void receive(const Stop&) { stop(); }

  void stop() {
    stopping = true;
    queue.clear();
    if (!running.empty()) runner.request_stop({});
    finish_stopping();
  }

  void receive(const Rejoin&) {
    // A Hello is on its way: with two of them the stay that the first one begins would be over before it is known
    // here, and what it is given would run though it is taken for ended.
    if (awaits_welcome) return;
    queue.clear();
    unacknowledged.clear();
    for (RunningPack* pack : {&running, &written}) {
      if (!pack->concerns_somebody()) continue;
      for (Member& member : pack->members) member.revoked = true;
      kill(*pack, "this worker had been given up");
    }
    welcome.reset();
    if (stopping) return finish_stopping();
    // The device is not free before that.
    hello_waits = !is_idle();
    if (!hello_waits) say_hello();
  }

  template <typename Other>
  void receive(const Other&) {
    spdlog::warn("a message that is not for a worker was refused");
  }

  void say_hello() {
    said_hello = awaits_welcome = true;
    send(options.hello);
  }

  bool on_gpu() const { return options.hello.device.starts_with("cuda"); }

  void on_ready(const Json& device) {
    if (!on_gpu()) return;
    if (const auto memory = device.find("memory_mb"); memory != device.end() && memory->is_number())
      options.hello.memory_mb = memory->get<double>();
    if (!said_hello) say_hello();
  }

  void run_next() {
    if (!running.empty() || queue.empty() || !welcome || stopping) return;
    const Pack pack = std::move(queue.front());
    queue.pop_front();
    running.may_be_disturbed = may_be_disturbed(pack);
    for (const Assignment& assignment : pack)
      running.members.push_back({key_of(assignment), assignment.traits, {}});
    running.moved = Clock::now();
    running.under_way = false;
    runner.start(execute_of(pack));
    crash_point("worker.started");
    prepare_next();
  }

  static bool may_be_disturbed(const Pack& pack) {
    return std::ranges::none_of(pack, [](const Assignment& assignment) {
      return assignment.job.isolate || assignment.job.kind == StepKind::benchmark;
    });
  }

  /// The next pack begins while this one's results are written.
  void on_computed() {
    if (!written.empty() || stopping || !welcome || queue.empty() || !may_be_disturbed(queue.front())) return;
    written = std::exchange(running, {});
    written.moved = Clock::now();
    run_next();
  }

  /// Those of the next pack of such jobs that fit beside what still runs of this one, once half of it is free.
  std::vector<Execute::Member> let_join() {
    if (!welcome || stopping || queue.empty() || !running.concerns_somebody()) return {};
    const int key = running.members.front().traits.key;
    PackFill fill(welcome->most_pack_jobs, options.hello.memory_mb);
    for (const Member& member : running.members) fill.add(member.traits);
    if (key < 0 || !fill.has_room()) return {};
    const auto found =
        std::ranges::find_if(queue, [key](const Pack& pack) { return pack.front().traits.key == key; });
    if (found == queue.end()) return {};
    Pack& waiting = *found;
    auto stays = waiting.begin();
    while (stays != waiting.end() && stays->traits.key == key && fill.admits(stays->traits))
      fill.add((stays++)->traits);
    if (stays == waiting.begin()) return {};

    PackGrew grew{welcome->worker, {}, {}};
    for (const Member& member : running.members) grew.pack.push_back(member.attempt);
    const storage::RunDirectory directory(welcome->run_directory);
    std::vector<Execute::Member> members;
    for (auto joins = waiting.begin(); joins != stays; ++joins) {
      members.push_back(member_of(*joins, directory));
      running.members.push_back({key_of(*joins), joins->traits, {}});
      grew.joined.push_back(key_of(*joins));
    }
    waiting.erase(waiting.begin(), stays);
    if (waiting.empty()) queue.erase(found);
    send(grew);
    prepare_next();
    return members;
  }

  /// The first ones that wait.
  void prepare_next() {
    if (running.empty() || !running.may_be_disturbed || stopping) return;
    std::vector<Execute> next;
    for (std::size_t i = 0; i < std::min(queue.size(), kAhead); ++i) next.push_back(execute_of(queue[i]));
    runner.prepare(next, running.under_way);
  }

  Execute execute_of(const Pack& pack) const {
    const storage::RunDirectory directory(welcome->run_directory);
    Execute execute;
    for (const Assignment& assignment : pack) execute.pack.push_back(member_of(assignment, directory));
    execute.threads = welcome->threads;
    execute.cache = directory.cache().string();
    execute.devices = pack.front().devices;
    return execute;
  }

  static Execute::Member member_of(const Assignment& assignment, const storage::RunDirectory& directory) {
    const AttemptKey attempt = key_of(assignment);
    Execute::Member member;
    member.job = assignment.job;
    member.attempt = assignment.attempt;
    member.staging = directory.staging(attempt).string();
    for (const JobId& input : assignment.job.inputs)
      member.artifacts[input.hex()] = directory.artifact(input).string();
    if (assignment.job.continues)
      member.artifacts[assignment.job.continues->hex()] = directory.artifact(*assignment.job.continues).string();
    for (AttemptNumber n = assignment.attempt - 1; n > 0; --n) {
      const auto checkpoints = directory.staging({assignment.job.id, n}) / "checkpoints";
      std::error_code ignored;
      if (std::filesystem::exists(checkpoints, ignored)) member.earlier_checkpoints.push_back(checkpoints.string());
    }
    member.log = directory.log(attempt).string();
    return member;
  }

  void on_progress(const AttemptKey& attempt, const Progress& progress) {
    Member* member = running.find(attempt);
    if (!member) return;
    if (progress.done != member->progress.done || progress.phase != member->progress.phase)
      running.moved = Clock::now();
    member->progress = progress;
    if (progress.done == 0 || std::exchange(running.under_way, true)) return;
    prepare_next();
  }

  void on_finished(const AttemptKey& attempt, Outcome outcome, bool crashed) {
    RunningPack* pack = pack_of(attempt);
    const bool was_revoked = pack && pack->find(attempt)->revoked;
    const bool concerns_us = pack && !was_revoked && welcome;
    if (pack) {
      std::erase_if(pack->members, [&](const Member& member) { return member.attempt == attempt; });
      pack->moved = Clock::now();
    }
    if (concerns_us) {
      Finished finished{welcome->worker, attempt, std::move(outcome), crashed};
      crash_point("worker.before_result");
      send(finished);
      crash_point("worker.result_sent");
      unacknowledged.emplace(attempt, std::move(finished));
    }
    if (was_revoked) say_revoked(attempt);
    if (is_idle() && std::exchange(hello_waits, false) && !stopping) say_hello();
    if (pack && !pack->empty() && !pack->concerns_somebody() && !crashed) kill(*pack, "revoked");
    run_next();
    prepare_next();
    finish_stopping();
  }

  void beat() {
    if (welcome) {
      Heartbeat heartbeat{welcome->worker, {}};
      for (const RunningPack* pack : {&running, &written}) {
        for (const Member& member : pack->members) heartbeat.held.push_back({member.attempt, member.progress});
        const std::chrono::duration<double> still = Clock::now() - pack->moved;
        if (!pack->empty() && still.count() > welcome->no_progress_s)
          kill(*pack, "made no progress for " + std::to_string(static_cast<int>(welcome->no_progress_s)) + " s");
      }
      for (const Pack& pack : queue)
        for (const Assignment& waiting : pack) heartbeat.held.push_back({key_of(waiting), {}});
      for (const auto& [attempt, finished] : unacknowledged) {
        heartbeat.held.push_back({attempt, {}});
        send(finished);
      }
      send(heartbeat);
      heartbeat_timer.expires_after(
          duration_cast<Clock::duration>(std::chrono::duration<double>(welcome->heartbeat_s)));
      heartbeat_timer.async_wait([this](const boost::system::error_code& error) {
        if (!error) beat();
      });
    }
  }

  void finish_stopping() {
    if (!stopping || ended || !is_idle() || !unacknowledged.empty()) return;
    ended = true;
    crash_point("worker.before_goodbye");
    if (welcome) send(Goodbye{welcome->worker});
    link.receive();  // moves the farewell on
    crash_point("worker.left");
    runner.shut_down();
    look_timer.cancel();
    heartbeat_timer.cancel();
    description_timer.cancel();
    io.stop();
  }
};

Agent::Agent(boost::asio::io_context& io, CoordinatorLink& link, JobRunner& runner, Options options)
    : impl_(std::make_unique<Impl>(io, link, runner, std::move(options))) {
  runner.set_callbacks({[this](const Json& device) { impl_->on_ready(device); },
                        [this](const AttemptKey& a, const Progress& p) { impl_->on_progress(a, p); },
                        [this](const AttemptKey& a, Outcome o, bool c) { impl_->on_finished(a, std::move(o), c); },
                        [this] { return impl_->let_join(); }, [this] { impl_->on_computed(); }});
}

Agent::~Agent() = default;

void Agent::start() {
  // What fits a GPU, the coordinator must know before it deals out packs; nothing could run there earlier anyway.
  if (impl_->on_gpu()) {
    impl_->description_timer.expires_after(kDescription);
    impl_->description_timer.async_wait([impl = impl_.get()](const boost::system::error_code& error) {
      if (!error && !impl->said_hello) impl->say_hello();
    });
  } else {
    impl_->say_hello();
  }
  impl_->look();
}

void Agent::leave() {
  impl_->stop();
}

bool Agent::deserted() const {
  return impl_->deserted;
}

std::string Agent::run_directory() const {
  return impl_->welcome ? impl_->welcome->run_directory : "";
}

}  // namespace finesweep::worker
