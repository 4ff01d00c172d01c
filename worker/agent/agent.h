#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>
#include <vector>

#include "jobs/messages.h"
#include "worker/agent/job_runner.h"

namespace finesweep::worker {

/// The worker's way to its coordinator. Frames arrive whole and in order. Nothing blocks.
class CoordinatorLink {
 public:
  virtual ~CoordinatorLink() = default;
  virtual void send(Bytes frame) = 0;
  virtual std::vector<Bytes> receive() = 0;
  /// Nothing will come any more. MPI never says so.
  virtual bool closed() const { return false; }
};

/// The worker process: owns one device, holds the packs of jobs that the coordinator dispatched to it in a queue,
/// and runs them one after the other in its runner; the next may begin while the last one's results are written. It
/// decides nothing about jobs; it keeps leases alive, watches that the runner makes progress, tells each member's
/// result as it comes and repeats it until it is acknowledged. It never loads libtorch.
class Agent {
 public:
  struct Options {
    Hello hello;
  };
  /// The link and the runner outlive the agent.
  Agent(boost::asio::io_context& io, CoordinatorLink& link, JobRunner& runner, Options options);
  ~Agent();

  /// Says Hello (of a GPU once the runner knows how large it is) and works until the coordinator's Stop has been
  /// obeyed, or the coordinator has been silent for two minutes or has closed the link; then stops the io_context.
  void start();
  /// As if the coordinator had said Stop: what runs writes a checkpoint, what waits goes to others.
  void leave();
  /// The coordinator was silent, or closed the link.
  bool deserted() const;
  /// Empty until the coordinator has said it.
  std::string run_directory() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::worker
