#pragma once

#include <signal.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <string>
#include <thread>

#include "jobs/result.h"

namespace finesweep::coordinator {

/// Opens `acceptor` at an IP address of this host and a port, 0 for any that is free. The Error names both.
inline Status listen_at(boost::asio::ip::tcp::acceptor& acceptor, const std::string& address, int port) {
  using boost::asio::ip::tcp;
  const auto cannot = [&](const std::string& why) {
    return Error{"cannot listen on " + address + ", port " + std::to_string(port) + ": " + why};
  };
  boost::system::error_code error;
  const auto ip = boost::asio::ip::make_address(address, error);
  if (error) return cannot("not an IP address of this host");
  const tcp::endpoint endpoint(ip, static_cast<std::uint16_t>(port));
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
  if (error) return cannot(error.message());
  return {};
}

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
