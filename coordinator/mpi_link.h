#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/worker_link.h"
#include "jobs/frame.h"
#include "jobs/result.h"

namespace finesweep::coordinator {

/// The MPI environment of this process, from construction to the end. One object a process, used by one thread.
class MpiWorld {
 public:
  /// MPI_Init_thread (funneled) with errors returned. Ranks but 0 are numbered among the workers of their node.
  static Result<MpiWorld> start();
  MpiWorld(MpiWorld&&) noexcept;
  ~MpiWorld();

  int rank() const;
  int size() const;
  /// Index of this worker among the workers of its node; 0 on rank 0.
  int node_index() const;
  std::string host() const;

  /// MPI_Finalize with a deadline; then the process exits with `exit_code`, whatever MPI does. Never returns. A
  /// worker that ends well, or has nothing to do, waits there for the coordinator as long as that takes: mpirun,
  /// and Slurm's PMIx too, end all ranks where one exits without the others.
  [[noreturn]] void exit(int exit_code);

 private:
  struct Impl;
  explicit MpiWorld(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// True where this process was started by an MPI launcher (mpirun, srun with PMI).
bool under_mpi_launcher();

/// Frames between ranks, point to point on the world communicator. Nothing blocks: sends keep their buffers until
/// MPI is done with them, receives are matched first and completed later. A completed send proves nothing about the
/// receiver. Not for several threads.
class MpiLink final : public WorkerLink {
 public:
  MpiLink();
  ~MpiLink() override;
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  void send(int rank, Bytes frame) override;
  /// Nothing is sent to a lost rank any more.
  void forget(int rank) override;
  /// What has arrived, in order of arrival for each rank; some hundreds at once. Also moves pending sends on.
  std::vector<Received> receive() override;

  /// Sends that MPI has not completed.
  std::size_t pending_sends() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::coordinator
