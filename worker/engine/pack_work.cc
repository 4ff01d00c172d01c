#include "worker/engine/pack_work.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace finesweep::worker {

void PackWork::run_together(std::size_t members) {
  packed_ = std::max(packed_, static_cast<std::int64_t>(members));
}

void PackWork::end(const WaitingMember& member, Outcome outcome) {
  if (outcome.environment.empty()) outcome.environment = job_environment(member.request);
  if (packed_ > 1) outcome.environment["pack"] = outcome.environment.value("pack", packed_);
  ended_(member.number, reported(member.request, std::move(outcome)));
}

void PackWork::say_not_packed(const JobId& job, const Error& why) {
  std::fprintf(stderr, "job %s is not packed: %s\n", job.hex().c_str(), why.message.c_str());
}

std::optional<Outcome> guarded_member(const std::function<std::optional<Outcome>()>& work) {
  try {
    return work();
  } catch (...) {
    Thrown thrown = describe_exception();
    if (thrown.out_of_memory) throw;
    return std::move(thrown.outcome);
  }
}

}  // namespace finesweep::worker
