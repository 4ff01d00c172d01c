#include "worker/collectives/process_group.h"

#include "worker/collectives/gloo_group.h"
#include "worker/collectives/nccl_group.h"

namespace finesweep::worker {

std::unique_ptr<ProcessGroup> ProcessGroup::join(const GroupOptions& options) {
  return options.device.is_cuda() ? join_nccl_group(options) : join_gloo_group(options);
}

}  // namespace finesweep::worker
