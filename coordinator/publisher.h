#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "jobs/ids.h"
#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

/// Verifies and publishes artifacts one after the other on a thread of its own: reading gigabytes must not keep the
/// coordinator from renewing leases.
class Publisher {
 public:
  explicit Publisher(storage::RunDirectory run);
  /// Waits for the artifact that is in hand; those behind it stay in staging.
  ~Publisher();
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  void submit(const AttemptKey& attempt);

  struct Done {
    AttemptKey attempt;
    /// As RunDirectory::publish returns it: renamed durably, not yet recorded.
    Result<storage::Manifest> manifest;
  };
  /// What is done since the last call.
  std::vector<Done> take();

 private:
  void work();

  storage::RunDirectory run_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<AttemptKey> queue_;
  std::vector<Done> done_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace finesweep::coordinator
