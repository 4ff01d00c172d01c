#pragma once

#include <string>
#include <vector>

#include "jobs/frame.h"

namespace finesweep::coordinator {

/// Frames to and from workers by rank: MPI (mpi_link.h), and TCP for those that join (tcp_link.h). Nothing blocks.
class WorkerLink {
 public:
  struct Received {
    int rank;
    Bytes frame;
    /// In place of a frame: the rank's connection has closed, and nothing will come of it again. MPI never says so.
    bool closed = false;
  };
  virtual ~WorkerLink() = default;
  virtual void send(int rank, Bytes frame) = 0;
  /// What has arrived, in order of arrival for each rank.
  virtual std::vector<Received> receive() = 0;
  /// The rank is gone for good.
  virtual void forget(int rank) = 0;
  /// Who was turned away since the last call, and why.
  virtual std::vector<std::string> refused() { return {}; }
};

}  // namespace finesweep::coordinator
