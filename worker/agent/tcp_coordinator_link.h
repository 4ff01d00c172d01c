#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "jobs/join.h"
#include "jobs/result.h"
#include "worker/agent/agent.h"

namespace finesweep::worker {

/// A joined worker's way to its coordinator: TCP, once both have shown that they know the token (jobs/join.h).
/// Everything happens on the io_context, which the caller runs.
class TcpCoordinatorLink final : public CoordinatorLink {
 public:
  /// Connects and shakes hands, running the io_context until that is done, `limit` has passed or something else has
  /// stopped it. The Error says what the other side is not.
  static Result<std::unique_ptr<TcpCoordinatorLink>> connect(boost::asio::io_context& io, const JoinTicket& ticket,
                                                             std::chrono::milliseconds limit);
  ~TcpCoordinatorLink() override;

  void send(Bytes frame) override;
  std::vector<Bytes> receive() override;
  bool closed() const override;
  /// Runs the io_context until what was sent has left this process, or `limit` has passed.
  void flush(std::chrono::milliseconds limit);

 private:
  struct Impl;
  explicit TcpCoordinatorLink(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace finesweep::worker
