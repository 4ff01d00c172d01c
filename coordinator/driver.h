#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/reactor.h"
#include "coordinator/worker_link.h"
#include "jobs/json.h"
#include "jobs/plan.h"
#include "storage/coordinator_lock.h"
#include "storage/run_directory.h"
#include "storage/store.h"

namespace finesweep::coordinator {

struct DriverOptions {
  ReactorOptions reactor;
  /// How each of the plan's jobs may share a pack; empty: none may.
  std::vector<PackTraits> packing;
  double heartbeat_s = 1;
  double no_progress_s = 600;
  int threads = 1;
  int workers = 1;  // ranks that are expected to join
  std::string host;
  /// Jobs that failed in an earlier life are tried again: where a person started the sweep, not where it was
  /// restarted.
  bool retry_failed = true;
};

/// The coordinator's loop: feeds the reactor with what workers say, time, signals and requests, and has carried out
/// what it decides (effect_runner.h).
class Driver {
 public:
  /// Store and lock are held by the caller and outlive the driver. `show` gets the records of
  /// coordinator/console.h.
  Driver(storage::Store& store, storage::CoordinatorLock* lock, storage::RunDirectory run, Plan plan,
         WorkerLink& link, std::function<void(const Json&)> show, DriverOptions options);
  ~Driver();

  /// Asks for a gentle stop: checkpoint, leave. May be called from a signal handler.
  static void request_stop();

  /// Runs the sweep to its end; returns the exit code for the user (docs: exit codes). Blocks.
  int run();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::coordinator
