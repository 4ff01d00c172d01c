#pragma once

#include <vector>

#include "jobs/frame.h"

namespace finesweep::coordinator {

/// Frames to and from workers by rank; MPI in the program (mpi_link.h). Nothing blocks.
class WorkerLink {
 public:
  struct Received {
    int rank;
    Bytes frame;
  };
  virtual ~WorkerLink() = default;
  virtual void send(int rank, Bytes frame) = 0;
  virtual std::vector<Received> receive() = 0;
  /// The rank is gone for good.
  virtual void forget(int rank) = 0;
};

}  // namespace finesweep::coordinator
