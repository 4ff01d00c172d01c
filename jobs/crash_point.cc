#include "jobs/crash_point.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string>

namespace finesweep {

namespace {

/// Passings to go, by point; 0: not asked for.
std::array<std::atomic<int>, kCrashPoints.size()> to_go;

/// One entry of FINESWEEP_CRASH_AT.
void arm(std::string_view entry) {
  const std::string_view name = entry.substr(0, entry.find(':'));
  const auto found = std::ranges::find(kCrashPoints, name);
  if (found == kCrashPoints.end()) return;  // its mark will be missing
  int passings = 1;
  if (name.size() < entry.size())
    std::from_chars(entry.data() + name.size() + 1, entry.data() + entry.size(), passings);
  to_go[static_cast<std::size_t>(found - kCrashPoints.begin())] = std::max(passings, 1);
}

bool arm_all() {
  const char* wanted = std::getenv("FINESWEEP_CRASH_AT");
  if (!wanted) return false;
  std::string_view rest = wanted;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(','), rest.size());
    arm(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return true;
}

/// False where the point has fired before. Without a folder of marks it always fires.
bool leave_mark(std::string_view name) {
  const char* folder = std::getenv("FINESWEEP_CRASH_MARKS");
  if (!folder) return true;
  const std::string path = std::string(folder) + "/" + std::string(name);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const std::string who = std::string(program_invocation_short_name) + " " + std::to_string(::getpid()) + "\n";
  [[maybe_unused]] const auto ignored = ::write(fd, who.data(), who.size());
  ::close(fd);
  return true;
}

}  // namespace

const bool crash_points_armed = arm_all();

void pass_armed_crash_point(CrashPoint point) {
  if (to_go[point.index()] == 0 || --to_go[point.index()] != 0) return;
  if (!leave_mark(kCrashPoints[point.index()])) return;
  ::kill(::getpid(), SIGKILL);
  ::_exit(128 + SIGKILL);
}

}  // namespace finesweep
