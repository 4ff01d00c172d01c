#include "worker/agent/runner_process.h"

#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <utility>

#include "jobs/runner_environment.h"

namespace finesweep::worker {
namespace {

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

Status RunnerProcess::spawn(const std::string& program, const std::string& device) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return Error{std::string("no socketpair for the runner: ") + strerror(errno)};
  const std::string parent = std::to_string(getpid());
  const RunnerEnvironment environment(device);
  const char* arguments[] = {
      program.c_str(), "--parent", parent.c_str(), "--socket", "3", "--device", environment.device().c_str(),
      nullptr};

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
  const int rc = posix_spawn(&pid_, program.c_str(), &actions, &attributes, const_cast<char* const*>(arguments),
                             environment.get());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(ends[1]);
  if (rc != 0) {
    pid_ = -1;
    close(ends[0]);
    return Error{program + ": cannot be started: " + strerror(rc)};
  }
  socket_.assign(boost::asio::local::stream_protocol(), ends[0]);
  read();
  return {};
}

void RunnerProcess::read() {
  socket_.async_read_some(boost::asio::buffer(chunk_),
                          [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
                            self->on_read(error, bytes);
                          });
}

void RunnerProcess::on_read(const boost::system::error_code& error, std::size_t bytes) {
  if (error) return gone("");
  reader_.append(chunk_.data(), bytes);
  while (true) {
    auto frame = reader_.next();
    if (!frame) return gone("the runner sent bytes that are no frame: " + frame.error().message);
    if (!*frame) break;
    auto message = decode(**frame);
    if (!message) return gone("the runner sent a message that cannot be read: " + message.error().message);
    const auto handler = on_message;  // a copy: handling the message may let go of this process
    if (handler) handler(std::move(*message));
  }
  read();
}

void RunnerProcess::send(const Message& message) {
  writing_.push_back(encode(message));
  if (writing_.size() == 1) write();
}

void RunnerProcess::write() {
  boost::asio::async_write(socket_, boost::asio::buffer(writing_.front()),
                           [self = shared_from_this()](const boost::system::error_code& error, std::size_t) {
                             if (error) return;  // the read side reports the end
                             self->writing_.pop_front();
                             if (!self->writing_.empty()) self->write();
                           });
}

int RunnerProcess::end() {
  if (pid_ <= 0) return 0;
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

void RunnerProcess::gone(std::string why) {
  boost::system::error_code ignored;
  socket_.close(ignored);
  int status = 0;
  if (pid_ > 0 && why.empty()) {
    // The socket closes a moment before the process has ended; one that lives on after that is ended.
    pid_t reaped = 0;
    for (int i = 0; i < 100 && (reaped = waitpid(pid_, &status, WNOHANG)) == 0; ++i) usleep(1000);
    if (reaped == 0) status = end();
    pid_ = -1;
    why = describe_end(status);
  } else {
    end();
  }
  auto handler = std::move(on_end);
  on_message = nullptr;
  on_end = nullptr;
  if (handler) handler(why);
}

void RunnerProcess::dismiss() {
  on_message = nullptr;
  on_end = nullptr;
  boost::system::error_code ignored;
  socket_.close(ignored);
  end();
}

}  // namespace finesweep::worker
