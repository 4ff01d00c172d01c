#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/runner_request.h"

namespace finesweep::coordinator {

/// How a call of a runner ended. The error is for the user; empty where the exit code is 0.
struct RunnerEnd {
  int exit_code = 4;
  std::string error;
};

/// Starts a finesweep-runner beside `program` for one request and waits for its end; what it prints itself goes to
/// standard error. `device` is of choose_devices(). Call from the main thread: the runner ends with it.
RunnerEnd call_runner(const std::filesystem::path& program, const std::string& device, const RunnerRequest& request,
                      const std::function<void(const Json& result)>& on_result);

/// The one device of a command by its option: auto, cpu, or the index of a GPU.
Result<std::string> choose_one_device(const std::string& option);

}  // namespace finesweep::coordinator
