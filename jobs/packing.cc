#include "jobs/packing.h"

#include <algorithm>

namespace finesweep {

namespace {

/// Of two limits where 0 is none.
std::int64_t lower_limit(std::int64_t a, std::int64_t b) {
  return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
}

}  // namespace

bool PackFill::admits(const PackTraits& job) const {
  if (jobs_ == 0) return true;
  if (job.key < 0 || jobs_ >= most_jobs_) return false;
  const std::int64_t most_tokens = lower_limit(most_tokens_, job.most_tokens);
  if (most_tokens > 0 && tokens_ + job.tokens > most_tokens) return false;
  const double memory_mb = std::max(shared_mb_, job.shared_mb) + own_mb_ + job.own_mb;
  return memory_mb_ <= 0 || memory_mb <= kPackMemoryShare * memory_mb_;
}

double PackFill::fullness() const {
  double share = static_cast<double>(jobs_) / most_jobs_;
  if (most_tokens_ > 0) share = std::max(share, static_cast<double>(tokens_) / static_cast<double>(most_tokens_));
  const double own_memory_mb = kPackMemoryShare * memory_mb_ - shared_mb_;
  if (memory_mb_ > 0) share = std::max(share, own_memory_mb > 0 ? own_mb_ / own_memory_mb : 1.0);
  return std::min(share, 1.0);
}

void PackFill::add(const PackTraits& job) {
  ++jobs_;
  tokens_ += job.tokens;
  most_tokens_ = lower_limit(most_tokens_, job.most_tokens);
  shared_mb_ = std::max(shared_mb_, job.shared_mb);
  own_mb_ += job.own_mb;
}

}  // namespace finesweep
