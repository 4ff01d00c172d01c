#pragma once

#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "jobs/result.h"

namespace finesweep::coordinator {

/// Takes in connections as long as `io` runs, which outlives it. listen() and accept() come before that.
class TcpListener {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  explicit TcpListener(boost::asio::io_context& io) : acceptor_(io), again_(io) {}

  /// At an IP address of this host and a port, 0 for any that is free. The Error names both.
  Status listen(const std::string& address, int port) {
    using boost::asio::ip::tcp;
    const auto cannot = [&](const std::string& why) {
      return Error{"cannot listen on " + address + ", port " + std::to_string(port) + ": " + why};
    };
    boost::system::error_code error;
    const auto ip = boost::asio::ip::make_address(address, error);
    if (error) return cannot("not an IP address of this host");
    const tcp::endpoint endpoint(ip, static_cast<std::uint16_t>(port));
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
    if (error) return cannot(error.message());
    port_ = acceptor_.local_endpoint().port();
    return {};
  }
  int port() const { return port_; }

  /// `welcome` is called with each connection, in the thread of `io`.
  void accept(std::function<void(Socket)> welcome) {
    welcome_ = std::move(welcome);
    accept_next();
  }

 private:
  /// Before the next try where a connection cannot be accepted (no file descriptors are left).
  static constexpr std::chrono::milliseconds kAgain{200};

  void accept_next() {
    acceptor_.async_accept([this](const boost::system::error_code& error, Socket socket) {
      if (error == boost::asio::error::operation_aborted) return;
      if (!error) {
        welcome_(std::move(socket));
        return accept_next();
      }
      again_.expires_after(kAgain);
      again_.async_wait([this](const boost::system::error_code& stopped) {
        if (!stopped) accept_next();
      });
    });
  }

  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer again_;
  std::function<void(Socket)> welcome_;
  int port_ = 0;
};

/// A thread that runs `io` and takes no signals: they are the main thread's.
inline std::thread run_in_thread(boost::asio::io_context& io) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread([&io] { io.run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace finesweep::coordinator
