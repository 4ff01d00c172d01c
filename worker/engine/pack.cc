#include "worker/executor.h"

namespace finesweep::worker {

void execute_pack(const std::vector<PackMember>& members, const std::function<void(std::size_t, Outcome)>& ended) {
  for (std::size_t i = 0; i < members.size(); ++i) ended(i, execute(members[i].request, *members[i].control));
}

}  // namespace finesweep::worker
