#pragma once

#include <sys/types.h>

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "jobs/messages.h"

namespace finesweep::worker {

/// A finesweep-runner, child of this process, and the socketpair to it. All on the thread of the io_context, which
/// is the one that starts it: a runner ends when that thread does. What waits on the socket keeps it alive.
class RunnerProcess : public std::enable_shared_from_this<RunnerProcess> {
 public:
  explicit RunnerProcess(boost::asio::io_context& io) : socket_(io) {}
  /// Ends the process.
  ~RunnerProcess() { end(); }
  RunnerProcess(const RunnerProcess&) = delete;
  RunnerProcess& operator=(const RunnerProcess&) = delete;

  /// `device`: "cpu" or "cuda:<index>", the only GPU that it sees.
  Status spawn(const std::string& program, const std::string& device);
  bool is_alive() const { return pid_ > 0; }
  void send(const Message& message);
  /// Ends it and tells on_end why.
  void gone(std::string why);
  /// Ends it; nobody is told.
  void dismiss();

  /// What it says, and that it has ended, once. Both may be null.
  std::function<void(Message)> on_message;
  std::function<void(std::string why)> on_end;

 private:
  void read();
  void on_read(const boost::system::error_code& error, std::size_t bytes);
  void write();
  /// Kills and reaps; returns the wait status, or 0 where it was reaped before.
  int end();

  pid_t pid_ = -1;
  boost::asio::local::stream_protocol::socket socket_;
  FrameReader reader_;
  std::array<std::uint8_t, 65536> chunk_;
  std::deque<Bytes> writing_;
};

}  // namespace finesweep::worker
