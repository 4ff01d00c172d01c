#include "worker/agent/runner_pool.h"

#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <utility>
#include <vector>

extern char** environ;

namespace finesweep::worker {

namespace {

using Socket = boost::asio::local::stream_protocol::socket;

/// The environment of a runner: its own GPU is the only one it sees.
std::vector<std::string> runner_environment(const RunnerPool::Options& options) {
  const bool gpu = options.device.starts_with("cuda:");
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry)
    if (std::string text = *entry; !gpu || !text.starts_with("CUDA_VISIBLE_DEVICES=")) result.push_back(text);
  if (gpu) result.push_back("CUDA_VISIBLE_DEVICES=" + options.device.substr(5));
  return result;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    std::string text =
        "the runner process was ended by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")";
    if (signal == SIGKILL)
      text += "; if nobody killed it, the machine ran out of memory: use a smaller batch or fewer workers";
    return text;
  }
  return "the runner process ended with exit code " + std::to_string(WEXITSTATUS(status)) + "; its log says more";
}

}  // namespace

/// One process and its socket. Kept alive by the handlers that wait on the socket.
struct RunnerProcess : std::enable_shared_from_this<RunnerProcess> {
  explicit RunnerProcess(boost::asio::io_context& io) : socket(io) {}
  ~RunnerProcess() { end(); }

  pid_t pid = -1;
  Socket socket;
  FrameReader reader;
  std::array<std::uint8_t, 65536> chunk;
  std::deque<Bytes> writing;
  std::function<void(Message)> on_message;
  std::function<void(std::string why)> on_end;

  Status spawn(const RunnerPool::Options& options) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return Error{std::string("no socketpair for the runner: ") + strerror(errno)};
    const std::string parent = std::to_string(getpid());
    const std::string device = options.device == "cpu" ? "cpu" : "cuda:0";
    const char* arguments[] = {options.program.c_str(), "--parent", parent.c_str(), "--socket", "3", "--device",
                               device.c_str(),          nullptr};
    const auto environment = runner_environment(options);
    std::vector<char*> environment_pointers;
    for (const std::string& entry : environment) environment_pointers.push_back(const_cast<char*>(entry.c_str()));
    environment_pointers.push_back(nullptr);

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    // Signals are as in a fresh process, but for those that the worker ignores because they are the coordinator's:
    // Slurm sends them to every process of a step, also while libtorch is still being loaded.
    sigset_t none, fresh;
    sigemptyset(&none);
    sigfillset(&fresh);
    for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigdelset(&fresh, signal);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &fresh);
    // A group of its own: what a launcher sends to the worker's group is not for the runner.
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    const int rc = posix_spawn(&pid, options.program.c_str(), &actions, &attributes,
                               const_cast<char* const*>(arguments), environment_pointers.data());
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    if (rc != 0) {
      pid = -1;
      close(ends[0]);
      return Error{options.program + ": cannot be started: " + strerror(rc)};
    }
    socket.assign(boost::asio::local::stream_protocol(), ends[0]);
    read();
    return {};
  }

  void read() {
    socket.async_read_some(boost::asio::buffer(chunk),
                           [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
                             self->on_read(error, bytes);
                           });
  }

  void on_read(const boost::system::error_code& error, std::size_t bytes) {
    if (error) return gone("");
    reader.append(chunk.data(), bytes);
    while (true) {
      auto frame = reader.next();
      if (!frame) return gone("the runner sent bytes that are no frame: " + frame.error().message);
      if (!*frame) break;
      auto message = decode(**frame);
      if (!message) return gone("the runner sent a message that cannot be read: " + message.error().message);
      const auto handler = on_message;  // a copy: handling the message may let go of this process
      if (handler) handler(std::move(*message));
    }
    read();
  }

  void send(const Message& message) {
    writing.push_back(encode(message));
    if (writing.size() == 1) write();
  }

  void write() {
    boost::asio::async_write(socket, boost::asio::buffer(writing.front()),
                             [self = shared_from_this()](const boost::system::error_code& error, std::size_t) {
                               if (error) return;  // the read side reports the end
                               self->writing.pop_front();
                               if (!self->writing.empty()) self->write();
                             });
  }

  /// Kills and reaps; returns the wait status, or 0 where it was reaped before.
  int end() {
    if (pid <= 0) return 0;
    ::kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    pid = -1;
    return status;
  }

  void gone(std::string why) {
    boost::system::error_code ignored;
    socket.close(ignored);
    int status = 0;
    if (pid > 0 && why.empty()) {
      // The socket closes a moment before the process has ended; one that lives on after that is ended.
      pid_t reaped = 0;
      for (int i = 0; i < 100 && (reaped = waitpid(pid, &status, WNOHANG)) == 0; ++i) usleep(1000);
      if (reaped == 0) status = end();
      pid = -1;
      why = describe_end(status);
    } else {
      end();
    }
    auto handler = std::move(on_end);
    on_message = nullptr;
    on_end = nullptr;
    if (handler) handler(why);
  }

  /// Lets go of it: nobody is told.
  void dismiss() {
    on_message = nullptr;
    on_end = nullptr;
    boost::system::error_code ignored;
    socket.close(ignored);
    end();
  }
};

struct RunnerPool::Impl : std::enable_shared_from_this<RunnerPool::Impl> {
  Impl(boost::asio::io_context& io, Options options) : io(io), options(std::move(options)) {}

  boost::asio::io_context& io;
  Options options;
  Callbacks callbacks;
  std::shared_ptr<RunnerProcess> active;  // runs, or will run, a pack
  std::shared_ptr<RunnerProcess> spare;   // CPU: the process of the next pack
  std::vector<AttemptKey> running;        // of the pack, those that are not done
  std::string killed_because;
  bool described = false;  // the device, or that nobody can
  bool closed = false;

  bool one_pack_each() const { return options.device == "cpu"; }

  std::shared_ptr<RunnerProcess> spawn() {
    auto process = std::make_shared<RunnerProcess>(io);
    const Status status = process->spawn(options);
    if (!status) {
      spdlog::error("{}", status.error().message);
      return nullptr;
    }
    return process;
  }

  /// The first process: it says what the device is before there is anything to run.
  void begin() {
    active = spawn();
    if (active)
      listen();
    else
      boost::asio::post(io, [self = shared_from_this()] { self->describe(Json::object()); });
  }

  void listen() {
    active->on_message = [this](Message message) { receive(std::move(message)); };
    active->on_end = [this](std::string why) { ended(std::move(why)); };
  }

  void describe(const Json& device) {
    if (!std::exchange(described, true) && callbacks.ready) callbacks.ready(device);
  }

  void start(const Execute& execute) {
    for (const auto& member : execute.pack) running.push_back(member.key());
    killed_because.clear();
    if (!active || active->pid <= 0) active = spare && spare->pid > 0 ? std::move(spare) : spawn();
    spare.reset();
    if (!active) {
      boost::asio::post(
          io, [self = shared_from_this()] { self->crash("the runner cannot be started: see the worker's log"); });
      return;
    }
    listen();
    active->send(execute);
    if (one_pack_each() && !closed) spare = spawn();
  }

  /// The process is gone, or was never there: what is not done has crashed.
  void crash(const std::string& why) {
    for (const AttemptKey& attempt : std::vector(running)) {
      Outcome outcome;
      outcome.error = why;
      finish(attempt, std::move(outcome), true);
    }
  }

  void finish(const AttemptKey& attempt, Outcome outcome, bool crashed) {
    if (std::erase(running, attempt) == 0) return;
    if (running.empty() && one_pack_each() && active) {
      active->dismiss();
      active.reset();
    }
    if (callbacks.finished) callbacks.finished(attempt, std::move(outcome), crashed);
  }

  void receive(Message message) {
    if (auto* progress = std::get_if<ExecuteProgress>(&message)) {
      if (std::find(running.begin(), running.end(), progress->attempt) != running.end() && callbacks.progress)
        callbacks.progress(progress->attempt, progress->progress);
    } else if (auto* executed = std::get_if<Executed>(&message)) {
      finish(executed->attempt, std::move(executed->outcome), false);
    } else if (auto* ready = std::get_if<RunnerReady>(&message)) {
      describe(ready->device);
    }
  }

  void ended(std::string why) {
    active.reset();
    describe(Json::object());
    crash(killed_because.empty() ? why : killed_because);
  }

  void kill(const std::string& reason) {
    if (!active || running.empty()) return;
    killed_because = reason;
    active->on_message = nullptr;  // or the last result would begin the next pack in a process that is about to end
    auto process = active;
    boost::asio::post(io, [process, reason] { process->gone(reason); });
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
void RunnerPool::request_stop(const std::vector<AttemptKey>& attempts) {
  if (impl_->active && !impl_->running.empty()) impl_->active->send(StopExecution{attempts});
}
void RunnerPool::kill(const std::string& reason) {
  impl_->kill(reason);
}
void RunnerPool::shut_down() {
  impl_->closed = true;
  impl_->running.clear();
  for (auto* process : {&impl_->active, &impl_->spare}) {
    if (*process) (*process)->dismiss();
    process->reset();
  }
}

}  // namespace finesweep::worker
