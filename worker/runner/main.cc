// finesweep-runner: the child of a worker that holds libtorch (and CUDA, NCCL) and runs jobs, one pack at a time.
//
//   finesweep-runner --parent PID --socket FD --device cpu|cuda:0   serves its worker over a socketpair
//   finesweep-runner --answer PID --device cpu|cuda:0               answers one request of a command of finesweep
//                                                                   (jobs/runner_request.h), then ends
//   finesweep-runner --describe DEVICE                              prints the device as JSON, for doctor
//
// The main thread computes; a second thread owns the socket. When the worker ends, so does the runner: by the
// kernel's death signal, and because the socket closes.

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "jobs/crash_point.h"
#include "jobs/lifeline.h"
#include "jobs/messages.h"
#include "jobs/runner_request.h"
#include "worker/answer.h"
#include "worker/executor.h"

namespace finesweep::worker {
namespace {

/// The socket to the worker, and the thread that owns it. send() and the waits may be called from any thread.
class Channel {
 public:
  explicit Channel(int fd)
      : socket_(io_, boost::asio::local::stream_protocol(), fd), guard_(io_.get_executor()), pulse_(io_) {
    read();
    thread_ = std::thread([this] { io_.run(); });
    thread_.detach();  // ends with the process
  }

  void send(const Message& message) {
    boost::asio::post(io_, [this, frame = encode(message)]() mutable {
      writing_.push_back(std::move(frame));
      if (writing_.size() == 1) write();
    });
  }

  /// The next pack; none: what is kept on the device is to go.
  std::optional<Execute> wait_for_work() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return execute_.has_value() || lets_go_; });
    lets_go_ = false;  // for a pack that has come meanwhile, too
    return std::exchange(execute_, std::nullopt);
  }

  /// Until the device is the pack's that came last. A rehearsal ends here.
  void await_turn() {
    if (rehearses_) throw NotWanted();
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return has_turn_; });
  }

  bool has_turn() {
    std::lock_guard lock(mutex_);
    return has_turn_;
  }

  /// Of the pack that the main thread works on.
  void set_rehearses(bool rehearses) { rehearses_ = rehearses; }

  /// Who runs with the pack from now on.
  std::vector<Execute::Member> ask_who_joins() {
    send(HasRoom{});
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return more_.has_value(); });
    return std::move(std::exchange(more_, std::nullopt)->pack);
  }

  bool stop_requested(const AttemptKey& attempt) {
    if (!any_stop_) return false;
    std::lock_guard lock(mutex_);
    return stop_all_ || stopped_.contains(attempt);
  }

  /// A sign of life every second, from the thread that does not compute.
  void begin_pulse() {
    boost::asio::post(io_, [this] {
      pulsing_ = true;
      pulse();
    });
  }
  void end_pulse() {
    boost::asio::post(io_, [this] {
      pulsing_ = false;
      pulse_.cancel();
    });
  }

 private:
  void pulse() {
    if (!pulsing_) return;
    send(Pulse{});
    pulse_.expires_after(std::chrono::seconds(1));
    pulse_.async_wait([this](const boost::system::error_code& error) {
      if (!error) pulse();
    });
  }

  void read() {
    socket_.async_read_some(boost::asio::buffer(chunk_),
                            [this](const boost::system::error_code& error, std::size_t bytes) {
                              if (error) _exit(0);  // the worker is gone
                              take(bytes);
                              read();
                            });
  }

  void take(std::size_t bytes) {
    reader_.append(chunk_.data(), bytes);
    while (true) {
      auto frame = reader_.next();
      if (!frame) give_up(frame.error());
      if (!*frame) return;
      auto message = decode(**frame);
      if (!message) give_up(message.error());
      if (auto* execute = std::get_if<Execute>(&*message)) {
        std::lock_guard lock(mutex_);
        // Here, not where the pack begins: a stop that comes while libtorch is still being made ready is meant for
        // it.
        any_stop_ = stop_all_ = lets_go_ = false;
        stopped_.clear();
        has_turn_ = !execute->ahead;
        execute_ = std::move(*execute);
        arrived_.notify_one();
      } else if (auto* more = std::get_if<ExecuteMore>(&*message)) {
        std::lock_guard lock(mutex_);
        more_ = std::move(*more);
        arrived_.notify_one();
      } else if (std::holds_alternative<Begin>(*message)) {
        std::lock_guard lock(mutex_);
        has_turn_ = true;
        arrived_.notify_one();
      } else if (std::holds_alternative<LetGo>(*message)) {
        std::lock_guard lock(mutex_);
        lets_go_ = true;
        arrived_.notify_one();
      } else if (const auto* stop = std::get_if<StopExecution>(&*message)) {
        std::lock_guard lock(mutex_);
        stop_all_ = stop_all_ || stop->attempts.empty();
        stopped_.insert(stop->attempts.begin(), stop->attempts.end());
        any_stop_ = true;
      }
    }
  }

  [[noreturn]] void give_up(const Error& error) {
    std::fprintf(stderr, "finesweep-runner: %s\n", error.message.c_str());
    _exit(4);
  }

  void write() {
    boost::asio::async_write(socket_, boost::asio::buffer(writing_.front()),
                             [this](const boost::system::error_code& error, std::size_t) {
                               if (error) _exit(0);
                               crash_point("runner.sent");
                               writing_.pop_front();
                               if (!writing_.empty()) write();
                             });
  }

  boost::asio::io_context io_;
  boost::asio::local::stream_protocol::socket socket_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_;
  boost::asio::steady_timer pulse_;
  bool pulsing_ = false;
  std::thread thread_;
  std::array<std::uint8_t, 65536> chunk_;
  FrameReader reader_;
  std::deque<Bytes> writing_;

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::optional<Execute> execute_;
  std::optional<ExecuteMore> more_;
  bool rehearses_ = false;  // of the main thread
  bool has_turn_ = false, lets_go_ = false;
  std::atomic<bool> any_stop_{false};  // asked at every step, so without the lock
  bool stop_all_ = false;
  std::set<AttemptKey> stopped_;
};

/// Of a pack, how many still compute; says when nobody does and the device has room for another one beside it.
class Computing {
 public:
  Computing(Channel& channel, const std::string& device) : channel_(channel), device_(device) {}
  void one_more() { ++members_; }
  void one_less() {
    if (--members_ == 0 && has_room_beside(device_)) channel_.send(Computed{});
  }

 private:
  Channel& channel_;
  const std::string& device_;
  std::size_t members_ = 0;
};

/// Sends progress a few times a second at most, and whenever the phase changes; the log has when that was.
class Control final : public ExecutionControl {
 public:
  Control(Channel& channel, Computing& computing, AttemptKey attempt)
      : channel_(channel), computing_(computing), attempt_(attempt) {
    computing_.one_more();
  }

  void progress(const Progress& progress) override {
    const auto now = Clock::now();
    if (progress.phase == phase_ && now - sent_ < std::chrono::milliseconds(200)) return;
    sent_ = now;
    if (progress.phase != phase_) note(progress.phase);
    phase_ = progress.phase;
    channel_.send(ExecuteProgress{attempt_, progress});
  }

  void await_turn() override {
    if (channel_.has_turn()) return;
    note("ready");
    channel_.await_turn();
    note("its turn");
  }

  void computed() override {
    if (!std::exchange(has_computed_, true)) computing_.one_less();
  }

  bool has_turn() override { return channel_.has_turn(); }
  bool stop_requested() override { return channel_.stop_requested(attempt_); }
  void peer_lost() override { has_lost_peer_ = true; }
  bool has_lost_peer() const { return has_lost_peer_; }
  const AttemptKey& attempt() const { return attempt_; }

 private:
  using Clock = std::chrono::steady_clock;
  void note(const std::string& what) const {
    std::fprintf(stderr, "%8.3f s %s of %s\n", std::chrono::duration<double>(Clock::now() - begin_).count(),
                 what.c_str(), attempt_.job.hex().c_str());
  }

  Channel& channel_;
  Computing& computing_;
  bool has_computed_ = false;
  AttemptKey attempt_;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point sent_{};
  std::string phase_ = "\n";
  bool has_lost_peer_ = false;
};

ExecutionRequest to_request(const Execute::Member& member, const Execute& execute, const std::string& device) {
  ExecutionRequest request;
  request.job = member.job;
  request.attempt = member.attempt;
  request.staging = member.staging;
  for (const auto& [id, folder] : member.artifacts)
    if (auto job = JobId::parse(id)) request.artifacts[*job] = folder;
  for (const std::string& folder : member.earlier_checkpoints) request.earlier_checkpoints.emplace_back(folder);
  request.device = device;
  request.threads = execute.threads;
  request.cache = execute.cache;
  request.rank = execute.rank;
  request.ranks = std::max<int>(1, static_cast<int>(execute.devices.size()));
  return request;
}

int open_log(const std::string& log) {
  return open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/// Says in the job's log that its pack prints to that of the first one.
void point_to(const Execute::Member& first, const Execute::Member& member, const std::string& pack) {
  const int log = open_log(member.log);
  if (log < 0) return;
  const std::string name = std::filesystem::path(first.log).filename();
  dprintf(log, "%s, which prints to %s\n", pack.c_str(), name.c_str());
  close(log);
}

/// What a job prints, libraries' warnings too, goes to its own log. Of a pack nobody can tell whose it is: it goes
/// to the first one's, and the others' say so.
void redirect_output(const std::vector<Execute::Member>& pack) {
  const int fd = open_log(pack.front().log);
  if (fd < 0) return;
  dup2(fd, STDOUT_FILENO);
  dup2(fd, STDERR_FILENO);
  close(fd);
  const std::string together = "in a pack of " + std::to_string(pack.size()) + " jobs";
  for (std::size_t i = 1; i < pack.size(); ++i) point_to(pack.front(), pack[i], together);
}

/// One build serves machines with and without a GPU: libtorch's CUDA half is loaded where it is wanted.
Status load_cuda() {
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return {};
  return Error{std::string("libtorch's CUDA library cannot be loaded: ") + dlerror() +
               "; run scripts/setup on a machine with a GPU, or use --devices cpu"};
}

/// Whatever comes of it: where it fails, the job will say so.
void rehearse(Channel& channel, const Execute& message, const std::string& device) {
  Execute::Member nobody;
  nobody.log = "/dev/null";
  redirect_output({nobody});
  Computing computing(channel, device);
  std::deque<Control> controls;
  std::vector<PackMember> members;
  for (const Execute::Member& member : message.pack)
    members.push_back(
        {to_request(member, message, device), &controls.emplace_back(channel, computing, member.key())});
  try {
    if (members.size() == 1)
      execute(members[0].request, *members[0].control);
    else
      execute_pack(members, [](std::size_t, const Outcome&) {});
  } catch (const std::exception&) {
  }
}

[[noreturn]] void serve(int fd, const std::string& device) {
  Channel channel(fd);
  Status cuda;
  if (device != "cpu") cuda = load_cuda();
  channel.send(RunnerReady{cuda ? describe_device(device) : Json::object()});
  if (cuda) warm_up(device);
  crash_point("runner.ready");
  while (true) {
    const std::optional<Execute> work = channel.wait_for_work();
    if (!work) {
      let_go(device);
      continue;
    }
    const Execute& message = *work;
    channel.set_rehearses(message.rehearsal);
    if (message.rehearsal) {
      if (cuda && has_room_beside(device)) rehearse(channel, message, device);
      channel.send(RunnerReady{describe_device(device)});
      continue;
    }
    redirect_output(message.pack);
    crash_point("runner.before_job");
    Computing computing(channel, device);
    std::deque<Control> controls;
    const auto members_of = [&](const std::vector<Execute::Member>& pack) {
      std::vector<PackMember> members;
      for (const Execute::Member& member : pack)
        members.push_back(
            {to_request(member, message, device), &controls.emplace_back(channel, computing, member.key())});
      return members;
    };
    const std::vector<PackMember> members = members_of(message.pack);
    const auto who_joins = [&] {
      const std::vector<Execute::Member> more = channel.ask_who_joins();
      for (const Execute::Member& member : more)
        point_to(message.pack.front(), member, "in a pack that ran already");
      return members_of(more);
    };
    const auto ended = [&](std::size_t member, Outcome outcome) {
      channel.await_turn();
      crash_point("runner.before_result");
      channel.end_pulse();
      controls[member].computed();
      channel.send(Executed{controls[member].attempt(), std::move(outcome), controls[member].has_lost_peer(),
                            cuda ? memory_share(device) : 1});
    };
    if (message.devices.size() > 1) channel.begin_pulse();
    if (cuda && message.ahead && !has_room_beside(device)) channel.await_turn();
    if (!cuda) {
      Outcome outcome;
      outcome.error = cuda.error().message;
      for (std::size_t i = 0; i < members.size(); ++i) ended(i, outcome);
    } else if (members.size() == 1) {
      Outcome outcome = execute(members[0].request, *members[0].control);
      if (outcome.kind == OutcomeKind::failed && !channel.has_turn()) {
        // It may have lacked what the other process has.
        channel.await_turn();
        outcome = execute(members[0].request, *members[0].control);
      }
      ended(0, std::move(outcome));
    } else {
      execute_pack(members, ended, who_joins);
    }
  }
}

/// What libraries print goes to standard error: standard output is for the answer.
int take_standard_output() {
  const int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  return fd;
}

int answer_one(const std::string& device) {
  const int out = take_standard_output();
  const auto send = [out](const Json& line) {
    const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    for (std::size_t sent = 0; sent < text.size();) {
      const ssize_t n = write(out, text.data() + sent, text.size() - sent);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) _exit(0);  // nobody listens
      sent += static_cast<std::size_t>(n);
    }
  };
  const auto fail = [&](const Error& error) {
    send({{"end", {{"exit_code", 4}, {"error", error.message}}}});
    return 4;
  };
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  const auto json = parse_json(text, "the request");
  if (!json) return fail(json.error());
  const auto request = parse_request(*json);
  if (!request) return fail(request.error());
  if (device != "cpu")
    if (const Status cuda = load_cuda(); !cuda) return fail(cuda.error());
  answer(*request, device, send);
  return 0;
}

}  // namespace
}  // namespace finesweep::worker

int main(int argc, char** argv) {
  using namespace finesweep;
  std::string device = "cpu";
  int parent = 0, socket = -1;
  bool describe = false, answers = false;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--parent")
      parent = std::stoi(value);
    else if (key == "--socket")
      socket = std::stoi(value);
    else if (key == "--device")
      device = value;
    else if (key == "--answer")
      parent = std::stoi(value), answers = true;
    else if (key == "--describe")
      device = value, describe = true;
    else
      socket = -1, i = argc;
  }
  if (describe) {
    if (device != "cpu")
      if (const Status cuda = worker::load_cuda(); !cuda) {
        std::cerr << cuda.error().message << "\n";
        return 1;
      }
    std::cout << worker::describe_device(device).dump() << std::endl;
    return 0;
  }
  if (answers) {
    end_with_parent(parent);
    return worker::answer_one(device);
  }
  if (socket < 0) {
    std::cerr << "finesweep-runner is started by finesweep's workers; to run a sweep: finesweep run SWEEP.yaml\n";
    return 2;
  }
  end_with_parent(parent);
  crash_point("runner.begun");
  // Launchers signal whole process groups to stop a sweep. What that means for a job, the worker says.
  for (const int stop : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) std::signal(stop, SIG_IGN);
  // The worker's own descriptors (MPI's sockets among them) are not ours to keep open.
  if (socket == 3) syscall(SYS_close_range, 4U, ~0U, 0U);
  worker::serve(socket, device);
}
