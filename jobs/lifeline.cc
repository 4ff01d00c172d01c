#include "jobs/lifeline.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace finesweep {

void end_with_parent(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have ended before the line above: then nobody will ever send the signal.
  if (parent > 0 && getppid() != parent) _exit(137);
}

pid_t announced_parent() {
  const char* text = std::getenv("FINESWEEP_PARENT");
  return text ? static_cast<pid_t>(std::atol(text)) : 0;
}

Error exec_with_lifeline(pid_t parent, const std::vector<std::string>& command) {
  end_with_parent(parent);
  setenv("FINESWEEP_PARENT", std::to_string(getpid()).c_str(), 1);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  return Error{command[0] + ": cannot be started: " + std::strerror(errno)};
}

}  // namespace finesweep
