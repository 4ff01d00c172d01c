#pragma once

#include <memory>

#include "worker/collectives/process_group.h"

namespace finesweep::worker {

/// Sums and words by Gloo (https://github.com/pytorch/gloo), over sockets that are bound to 127.0.0.1.
std::unique_ptr<ProcessGroup> join_gloo_group(const GroupOptions& options);

}  // namespace finesweep::worker
