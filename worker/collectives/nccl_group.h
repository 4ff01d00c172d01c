#pragma once

#include <memory>

#include "worker/collectives/process_group.h"

namespace finesweep::worker {

/// Sums by NCCL on a stream of their own, words by Gloo. The communicator is non-blocking: every call into NCCL
/// returns at once, and what it began is polled. A watchdog looks whether sums that have begun come to their end in
/// time and whether the communicator reports an error; then it aborts it, which ends the kernels that wait for a
/// peer, and the next call of the group throws PeerLost.
std::unique_ptr<ProcessGroup> join_nccl_group(const GroupOptions& options);

}  // namespace finesweep::worker
