#include "coordinator/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "coordinator/stale_segments.h"
#include "coordinator/unix_time.h"
#include "jobs/crash_point.h"
#include "storage/run_directory.h"
#include "storage/status_file.h"

extern char** environ;

namespace finesweep::coordinator {

namespace {

constexpr int kLivesWithoutProgress = 3;
/// So long a sweep that is to stop may take to begin.
constexpr std::chrono::seconds kUntilBegun{10};

volatile sig_atomic_t interrupts = 0;
volatile sig_atomic_t stop_gently = 0;
int wake_pipe[2] = {-1, -1};

void on_signal(int signal) {
  if (signal == SIGUSR1)
    stop_gently = 1;
  else
    interrupts = interrupts + 1;
  const char byte = 0;
  [[maybe_unused]] const auto ignored = write(wake_pipe[1], &byte, 1);
}

void watch_signals() {
  if (pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return;
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) sigaction(signal, &action, nullptr);
}

std::vector<std::string> mpirun_command(const SupervisorOptions& options) {
  // One host: what Open MPI opens stays on loopback where it lets itself be told so.
  std::vector<std::string> command{options.program.string(),
                                   "exec-with-lifeline",
                                   std::to_string(getpid()),
                                   "mpirun",
                                   "-n",
                                   std::to_string(options.workers + 1),
                                   "--oversubscribe",
                                   "--bind-to",
                                   "none"};
  // ob1 and vader are what one host takes; to look for better ones takes four times as long as all else of
  // MPI_Init.
  for (const auto& [name, value] : {std::pair{"pml", "ob1"},
                                    {"btl", "self,vader"},
                                    {"btl_vader_single_copy_mechanism", "none"},
                                    {"oob_tcp_if_include", "lo"},
                                    {"mpi_yield_when_idle", "1"},
                                    {"odls_base_sigkill_timeout", "1"}})
    command.insert(command.end(), {"--mca", name, value});
  command.push_back(options.program.string());
  command.insert(command.end(), options.arguments.begin(), options.arguments.end());
  return command;
}

std::vector<std::string> rank_environment(int life) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry; ++entry)
    if (std::string text = *entry; !text.starts_with("FINESWEEP_LIFE=")) result.push_back(text);
  result.push_back("FINESWEEP_LIFE=" + std::to_string(life));
  if (geteuid() == 0) {  // in containers
    result.push_back("OMPI_ALLOW_RUN_AS_ROOT=1");
    result.push_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
  }
  return result;
}

struct Launched {
  pid_t pid = -1;
  int output = -1;  // mpirun's standard output: rank 0's records
};

Result<Launched> launch(const SupervisorOptions& options, int life) {
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return Error{std::string("no pipe for mpirun: ") + std::strerror(errno)};
  const auto command = mpirun_command(options);
  const auto environment = rank_environment(life);
  auto pointers = [](const std::vector<std::string>& words) {
    std::vector<char*> result;
    for (const std::string& word : words) result.push_back(const_cast<char*>(word.c_str()));
    result.push_back(nullptr);
    return result;
  };
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // Its own process group: Ctrl-C reaches us alone, and we say what it means.
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
  Launched launched;
  const int rc = posix_spawn(&launched.pid, command[0].c_str(), &actions, &attributes, pointers(command).data(),
                             pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(output[1]);
  if (rc != 0) {
    close(output[0]);
    return Error{options.program.string() + ": cannot be started: " + std::strerror(rc)};
  }
  launched.output = output[0];
  return launched;
}

/// Rank 0 speaks JSON lines; what else comes on this pipe is for the user as it is.
class RecordReader {
 public:
  explicit RecordReader(Console& console) : console_(console) {}

  /// The coordinator has begun: it hears signals.
  bool has_begun() const { return has_begun_; }
  /// The exit code of a coordinator that could not even begin.
  std::optional<int> gave_up() const { return gave_up_; }

  void take(const char* data, std::size_t bytes) {
    text_.append(data, bytes);
    std::size_t begin = 0, end;
    while ((end = text_.find('\n', begin)) != std::string::npos) {
      std::string line = text_.substr(begin, end - begin);
      begin = end + 1;
      while (!line.empty() && line.back() == '\r') line.pop_back();
      Json record = Json::parse(line, nullptr, false);
      has_begun_ |= record.is_object();
      if (record.is_object() && record.value("event", "") == "gave_up") {
        std::fprintf(stderr, "finesweep: %s\n", record.value("message", "").c_str());
        gave_up_ = record.value("exit_code", 4);
      } else if (record.is_object() && record.contains("event"))
        console_.show(record);
      else if (!line.empty())
        console_.show({{"event", "text"}, {"text", line}});
    }
    text_.erase(0, begin);
  }

 private:
  Console& console_;
  std::string text_;
  std::optional<int> gave_up_;
  bool has_begun_ = false;
};

/// Shows what comes until mpirun has ended, and passes signals on meanwhile. Gives mpirun's exit code; -1: it has
/// none.
int attend(const Launched& launched, RecordReader& reader, Console& console, int& interrupts_passed,
           bool& stop_passed) {
  bool open = true, was_early = false;
  int exit_code = -1;
  std::chrono::steady_clock::time_point kill_at{}, stopped_at{};
  while (true) {
    if ((interrupts > 0 || stop_gently) && !stop_passed) {
      stop_passed = true;
      if (interrupts > 0) interrupts_passed = 1;
      console.show({{"event", "text"}, {"text", "stopping: running jobs write a checkpoint (again: stop now)"}});
      kill(launched.pid, SIGUSR1);
      was_early = !reader.has_begun();
      stopped_at = std::chrono::steady_clock::now();
    }
    // A signal that comes while mpirun still starts its processes reaches none of them.
    if (was_early && reader.has_begun()) {
      kill(launched.pid, SIGUSR1);
      was_early = false;
    }
    // Where none begins there is nothing to wait for.
    if (was_early && std::chrono::steady_clock::now() - stopped_at > kUntilBegun) interrupts = 2;
    if (interrupts > 1 && interrupts_passed < 2) {
      interrupts_passed = 2;
      kill(launched.pid, SIGTERM);
      kill_at = std::chrono::steady_clock::now() + std::chrono::seconds(3);
    }
    if (interrupts_passed >= 2 && std::chrono::steady_clock::now() > kill_at) kill(launched.pid, SIGKILL);

    pollfd watched[2] = {{wake_pipe[0], POLLIN, 0}, {open ? launched.output : -1, POLLIN, 0}};
    poll(watched, 2, open ? 500 : 20);
    char buffer[65536];
    if (watched[0].revents) [[maybe_unused]]
      const auto ignored = read(wake_pipe[0], buffer, sizeof buffer);
    if (open && watched[1].revents) {
      const ssize_t bytes = read(launched.output, buffer, sizeof buffer);
      if (bytes > 0)
        reader.take(buffer, static_cast<std::size_t>(bytes));
      else if (bytes == 0)
        open = false;
    }
    if (!open) {
      int status = 0;
      const pid_t ended = waitpid(launched.pid, &status, WNOHANG);
      if (ended == launched.pid && WIFEXITED(status)) exit_code = WEXITSTATUS(status);
      if (ended == launched.pid || (ended < 0 && errno == ECHILD)) break;
    }
  }
  close(launched.output);
  return exit_code;
}

struct Standing {
  bool decided = false;  // the coordinator wrote a final state in this life
  int exit_code = 4;
  std::int64_t done = 0;
  std::string message;
};

Standing read_standing(const storage::RunDirectory& run, std::int64_t since_ms) {
  Standing standing;
  const auto status = storage::read_status(run.status_file());
  if (!status) return standing;
  standing.done = status->jobs.succeeded + status->jobs.failed;
  standing.message = status->message;
  if (status->state != storage::StatusSnapshot::State::running && status->exit_code &&
      status->heartbeat_ms >= since_ms) {
    standing.decided = true;
    standing.exit_code = *status->exit_code;
  }
  return standing;
}

/// Ranks that mpirun left when it was killed end by their death signal; the next life waits for the last one's
/// coordinator by its lock. Nothing to do here but to give the kernel a moment.
void settle() {
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

}  // namespace

int supervise(const SupervisorOptions& options, Console& console) {
  watch_signals();
  remove_stale_segments();
  const storage::RunDirectory run(options.run_directory);
  int lives_without_progress = 0, interrupts_passed = 0;
  bool stop_passed = false;
  for (int life = 0;; ++life) {
    const std::int64_t started_ms = unix_ms();
    const std::int64_t done_before = read_standing(run, started_ms).done;
    crash_point("supervisor.before_launch");
    auto launched = launch(options, life);
    crash_point("supervisor.launched");
    if (!launched) {
      std::fprintf(stderr, "finesweep: %s\n", launched.error().message.c_str());
      return 4;
    }
    RecordReader reader(console);
    const int ended = attend(*launched, reader, console, interrupts_passed, stop_passed);
    crash_point("supervisor.launcher_ended");
    if (ended == kLauncherMissing && !reader.has_begun()) {
      std::fprintf(stderr, "finesweep: a sweep needs Open MPI's mpirun in PATH; see `finesweep doctor`\n");
      return 4;
    }
    if (reader.gave_up()) return *reader.gave_up();
    const Standing standing = read_standing(run, started_ms);
    if (standing.decided) return standing.exit_code;
    if (interrupts > 0 || stop_gently) return 3;
    lives_without_progress = standing.done > done_before ? 0 : lives_without_progress + 1;
    if (lives_without_progress >= kLivesWithoutProgress) {
      std::fprintf(
          stderr,
          "finesweep: the MPI processes died %d times in a row without finishing a job; what is done is kept in "
          "%s. See the messages above and `finesweep doctor`, then run the same command again.\n",
          lives_without_progress, options.run_directory.c_str());
      return 4;
    }
    console.show({{"event", "text"}, {"text", "the MPI processes died; going on from what is recorded"}});
    settle();
  }
}

}  // namespace finesweep::coordinator
