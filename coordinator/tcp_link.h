#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/worker_link.h"
#include "jobs/join.h"
#include "jobs/result.h"

namespace finesweep::coordinator {

struct TcpLinkOptions {
  /// An IP address of this host. Only the loopback address keeps other hosts out.
  std::string address = "127.0.0.1";
  int port = 0;  // 0: any that is free
  /// Connections get ranks from here on; none is used twice.
  int first_rank = 1;
  /// Within this time a stranger has shown that it knows the token, or is turned away.
  std::chrono::milliseconds handshake_limit{5000};
  /// So many at once that have not; further ones are turned away.
  int max_strangers = 16;
  int max_workers = 4096;
};

/// Frames to and from workers that join a running sweep over TCP. Listens, shakes hands (jobs/join.h), reads and
/// writes in a thread of its own; the calls below are for one other thread and never wait for the network.
///
/// Of a stranger nothing but the fixed-length answer to the greeting is read. A worker that sends what is no frame
/// is cut off; damaged frames are passed on, for the driver to refuse. Who sends faster than receive() is called is
/// read no further until then.
class TcpLink final : public WorkerLink {
 public:
  /// The Error names the address.
  static Result<std::unique_ptr<TcpLink>> listen(const TcpLinkOptions& options, const Secret& token);
  /// Closes all connections.
  ~TcpLink() override;

  int port() const;

  void send(int rank, Bytes frame) override;
  std::vector<Received> receive() override;
  void forget(int rank) override;
  std::vector<std::string> refused() override;

 private:
  struct Impl;
  explicit TcpLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::coordinator
