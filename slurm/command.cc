#include "slurm/command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

extern char** environ;

namespace finesweep::slurm {

namespace {

/// Both ends, closed when it goes.
struct Pipe {
  int ends[2] = {-1, -1};
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  bool open() { return pipe2(ends, O_CLOEXEC) == 0; }
  void close_end(int which) {
    if (ends[which] >= 0) close(ends[which]);
    ends[which] = -1;
  }
};

Result<pid_t> spawn(const std::vector<std::string>& command, const Pipe& output, const Pipe& errors) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.ends[1], STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int rc = posix_spawnp(&pid, command[0].c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (rc != 0) return Error{command[0] + " cannot be started: " + std::strerror(rc)};
  return pid;
}

/// What has come; closes the pipe at its end.
void take(Pipe& pipe, std::string& text) {
  std::array<char, 4096> buffer;
  const ssize_t bytes = read(pipe.ends[0], buffer.data(), buffer.size());
  if (bytes > 0)
    text.append(buffer.data(), static_cast<std::size_t>(bytes));
  else if (bytes == 0 || errno != EINTR)
    pipe.close_end(0);
}

}  // namespace

Result<CommandResult> run_command(const std::vector<std::string>& command, std::chrono::milliseconds deadline) {
  Pipe output, errors;
  if (!output.open() || !errors.open()) return Error{"no pipe for " + command[0] + ": " + std::strerror(errno)};
  const auto pid = spawn(command, output, errors);
  if (!pid) return pid.error();
  output.close_end(1);
  errors.close_end(1);

  CommandResult result;
  const auto until = std::chrono::steady_clock::now() + deadline;
  bool late = false;
  while (output.ends[0] >= 0 || errors.ends[0] >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      late = true;
      break;
    }
    pollfd watched[2] = {{output.ends[0], POLLIN, 0}, {errors.ends[0], POLLIN, 0}};
    if (poll(watched, 2, static_cast<int>(left.count())) < 0 && errno != EINTR) break;
    if (watched[0].revents) take(output, result.output);
    if (watched[1].revents) take(errors, result.errors);
  }
  if (late) kill(*pid, SIGKILL);
  int status = 0;
  while (waitpid(*pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (late) return Error{command[0] + " did not answer in time; is Slurm's controller alive?"};
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

}  // namespace finesweep::slurm
