#pragma once

#include <cstdint>

namespace finesweep {

/// How a job may run together with others over one frozen base model (sweeps/packing.h says what each job's are).
struct PackTraits {
  /// Only jobs of one key may share a pack; negative: always alone.
  int key = -1;
  /// Of one pass: rows × padded length.
  std::int64_t tokens = 0;
  /// A pack with this job in it has no more tokens than this; 0: as many as there are jobs for.
  std::int64_t most_tokens = 0;
  /// Estimated memory in MB: what a pack holds once, and what this job adds to it.
  double shared_mb = 0;
  double own_mb = 0;
};

/// The share of a device's memory that the estimate of a pack may fill: the rest is for what estimates leave out.
inline constexpr double kPackMemoryShare = 0.9;

/// A pack that is being put together; its first job is always admitted. That all are of one key is the caller's
/// business.
class PackFill {
 public:
  /// memory_mb: of the device; 0: not known, so not a limit.
  PackFill(int most_jobs, double memory_mb) : most_jobs_(most_jobs), memory_mb_(memory_mb) {}

  bool admits(const PackTraits& job) const;
  void add(const PackTraits& job);

  int jobs() const { return jobs_; }
  std::int64_t tokens() const { return tokens_; }
  /// The estimate, in MB.
  double memory_mb() const { return shared_mb_ + own_mb_; }
  /// How far it is filled, between 0 and 1, by that of its limits which is nearest; what a pack holds once does not
  /// count.
  double fullness() const;
  /// Others may join it while it runs: so much of it is free that forming it anew is worth it.
  bool has_room() const { return fullness() <= 0.5; }

 private:
  int most_jobs_;
  double memory_mb_;
  int jobs_ = 0;
  std::int64_t tokens_ = 0, most_tokens_ = 0;
  double shared_mb_ = 0, own_mb_ = 0;
};

}  // namespace finesweep
