#pragma once

#include <string>
#include <vector>

namespace finesweep {

/// The environment that a finesweep-runner for this device ("cpu" or "cuda:<index>") is started with: that of this
/// process, but its own GPU is the only one it sees.
class RunnerEnvironment {
 public:
  explicit RunnerEnvironment(const std::string& device);
  RunnerEnvironment(const RunnerEnvironment&) = delete;
  RunnerEnvironment& operator=(const RunnerEnvironment&) = delete;

  /// As execve takes it; good as long as this lives.
  char* const* get() const { return pointers_.data(); }
  /// What the runner itself calls the device.
  const std::string& device() const { return device_; }

 private:
  std::string device_;
  std::vector<std::string> entries_;
  std::vector<char*> pointers_;
};

}  // namespace finesweep
