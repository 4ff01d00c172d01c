#include "coordinator/runner_call.h"

#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/devices.h"
#include "jobs/outcome.h"
#include "jobs/runner_environment.h"

namespace finesweep::coordinator {

namespace {

struct Spawned {
  pid_t pid = -1;
  int socket = -1;  // to its standard input and from its standard output
};

Result<Spawned> spawn_runner(const std::filesystem::path& runner, const std::string& device) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return Error{std::string("no socketpair for the runner: ") + strerror(errno)};
  const std::string program = runner.string(), parent = std::to_string(getpid());
  const RunnerEnvironment environment(device);
  const char* arguments[] = {program.c_str(), "--answer", parent.c_str(), "--device", environment.device().c_str(),
                             nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  Spawned spawned;
  const int rc = posix_spawn(&spawned.pid, program.c_str(), &actions, nullptr, const_cast<char* const*>(arguments),
                             environment.get());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (rc != 0) {
    close(ends[0]);
    return Error{program + ": cannot be started: " + strerror(rc) + "; build it with scripts/build"};
  }
  spawned.socket = ends[0];
  return spawned;
}

/// False where the runner is gone: how it ended says why.
bool send_all(int socket, const std::string& text) {
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(socket, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return shutdown(socket, SHUT_WR) == 0;
}

/// A line for each answer, as they come.
void read_lines(int socket, const std::function<void(const std::string&)>& on_line) {
  std::string pending;
  char chunk[65536];
  while (true) {
    const ssize_t n = read(socket, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    pending.append(chunk, static_cast<std::size_t>(n));
    std::size_t begin = 0;
    for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1)
      on_line(pending.substr(begin, end - begin));
    pending.erase(0, begin);
  }
}

std::string describe_end(int status) {
  if (!WIFSIGNALED(status)) return "the runner ended with exit code " + std::to_string(WEXITSTATUS(status));
  const int signal = WTERMSIG(status);
  std::string text = "the runner was ended by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")";
  if (signal == SIGKILL) text += "; if nobody killed it, the machine ran out of memory: use a smaller batch";
  return text;
}

/// On a terminal, one line that is written over.
class ProgressLine {
 public:
  ~ProgressLine() { clear(); }
  void show(const Progress& progress) {
    if (!terminal_) return;
    std::string text = progress.phase;
    if (progress.total > 0) text += " " + std::to_string(progress.done) + "/" + std::to_string(progress.total);
    std::fprintf(stderr, "\r%s\033[K", text.c_str());
    shown_ = true;
  }
  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) == 1;
  bool shown_ = false;
};

}  // namespace

RunnerEnd call_runner(const std::filesystem::path& program, const std::string& device, const RunnerRequest& request,
                      const std::function<void(const Json& result)>& on_result) {
  const auto spawned = spawn_runner(program.parent_path() / "finesweep-runner", device);
  if (!spawned) return {4, spawned.error().message};
  std::optional<RunnerEnd> end;
  {
    ProgressLine progress;
    if (send_all(spawned->socket, request_to_json(request).dump(-1, ' ', false, Json::error_handler_t::replace)))
      read_lines(spawned->socket, [&](const std::string& line) {
        const Json answer = Json::parse(line, nullptr, false);
        if (!answer.is_object()) return;
        if (const auto found = answer.find("progress"); found != answer.end()) {
          progress.show(found->get<Progress>());
        } else if (const auto result = answer.find("result"); result != answer.end()) {
          progress.clear();
          on_result(*result);
        } else if (const auto last = answer.find("end"); last != answer.end()) {
          end = RunnerEnd{last->value("exit_code", 4), last->value("error", "")};
        }
      });
  }
  close(spawned->socket);
  int status = 0;
  while (waitpid(spawned->pid, &status, 0) < 0 && errno == EINTR) {
  }
  return end ? *end : RunnerEnd{4, describe_end(status)};
}

Result<std::string> choose_one_device(const std::string& option) {
  const auto devices = choose_devices(option, read_host_resources());
  if (!devices) return devices.error();
  if (option != "auto" && devices->size() > 1) return Error{"--device " + option + ": expected one device"};
  return devices->front();
}

}  // namespace finesweep::coordinator
