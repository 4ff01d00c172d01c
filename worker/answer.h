#pragma once

#include <functional>
#include <string>

#include "jobs/json.h"
#include "jobs/runner_request.h"

namespace finesweep::worker {

/// Does what one command of `finesweep` asks for, on the calling thread; `send` gets the lines of the answer (see
/// jobs/runner_request.h), the end included. Never throws. Exit codes: 0, 2 where the request or what it names is
/// wrong, 4 where the system failed.
void answer(const RunnerRequest& request, const std::string& device, const std::function<void(const Json&)>& send);

}  // namespace finesweep::worker
