#include "worker/agent/tcp_coordinator_link.h"

#include <spdlog/spdlog.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <optional>
#include <utility>

namespace finesweep::worker {

using boost::asio::ip::tcp;
using boost::system::error_code;

/// Kept alive by the handlers that wait on the socket.
struct TcpCoordinatorLink::Impl : std::enable_shared_from_this<Impl> {
  explicit Impl(boost::asio::io_context& io) : io(io), socket(io) {}

  boost::asio::io_context& io;
  tcp::socket socket;
  Bytes frame;
  std::vector<Bytes> inbox;
  std::deque<Bytes> writing;
  bool closed = false;

  /// Runs what `start` began, which calls the handler that it is given, within the time that is left.
  template <typename Start>
  error_code finish(std::chrono::steady_clock::time_point until, Start start) {
    const auto result = std::make_shared<std::optional<error_code>>();
    start([self = shared_from_this(), result](const error_code& error, auto&&...) { *result = error; });
    io.restart();
    while (!*result && !io.stopped() && std::chrono::steady_clock::now() < until) io.run_one_until(until);
    if (*result) return **result;
    close();
    return boost::asio::error::timed_out;
  }

  Status shake_hands(const JoinTicket& ticket, std::chrono::milliseconds limit) {
    const auto until = std::chrono::steady_clock::now() + limit;
    const auto nonce = random_secret();
    if (!nonce) return nonce.error();
    error_code error;
    tcp::resolver resolver(io);
    const auto addresses =
        resolver.resolve(ticket.host, std::to_string(ticket.port), tcp::resolver::numeric_service, error);
    if (error) return Error{error.message()};
    error = finish(until, [&](auto done) { boost::asio::async_connect(socket, addresses, done); });
    if (error) return Error{error.message()};
    socket.set_option(tcp::no_delay(true), error);
    socket.set_option(tcp::socket::keep_alive(true), error);

    Greeting greeting;
    error = finish(until, [&](auto done) { boost::asio::async_read(socket, boost::asio::buffer(greeting), done); });
    if (error) return Error{"it does not greet as a coordinator does (" + error.message() + ")"};
    const auto answer = answer_greeting(ticket.token, greeting, *nonce);
    if (!answer) return answer.error();
    error = finish(until, [&](auto done) { boost::asio::async_write(socket, boost::asio::buffer(*answer), done); });
    if (error) return Error{error.message()};
    Confirmation confirmation;
    error =
        finish(until, [&](auto done) { boost::asio::async_read(socket, boost::asio::buffer(confirmation), done); });
    if (error) return Error{"it did not take the token (" + error.message() + ")"};
    return check_confirmation(ticket.token, greeting, *answer, confirmation);
  }

  void read_header() {
    frame.resize(kFrameHeaderBytes);
    boost::asio::async_read(socket, boost::asio::buffer(frame),
                            [self = shared_from_this()](const error_code& error, std::size_t) {
                              if (error) return self->close();
                              const auto size = frame_size(self->frame.data());
                              if (size) return self->read_payload(*size);
                              spdlog::warn("the coordinator sent what is no frame: {}", size.error().message);
                              self->close();
                            });
  }

  void read_payload(std::size_t size) {
    frame.resize(size);
    boost::asio::async_read(socket, boost::asio::buffer(frame.data() + kFrameHeaderBytes, size - kFrameHeaderBytes),
                            [self = shared_from_this()](const error_code& error, std::size_t) {
                              if (error) return self->close();
                              self->inbox.push_back(std::exchange(self->frame, {}));
                              self->read_header();
                            });
  }

  void write() {
    boost::asio::async_write(socket, boost::asio::buffer(writing.front()),
                             [self = shared_from_this()](const error_code& error, std::size_t) {
                               if (error) return self->close();
                               self->writing.pop_front();
                               if (!self->writing.empty()) self->write();
                             });
  }

  void close() {
    closed = true;
    error_code ignored;
    socket.close(ignored);
  }
};

Result<std::unique_ptr<TcpCoordinatorLink>> TcpCoordinatorLink::connect(boost::asio::io_context& io,
                                                                        const JoinTicket& ticket,
                                                                        std::chrono::milliseconds limit) {
  auto impl = std::make_shared<Impl>(io);
  std::unique_ptr<TcpCoordinatorLink> link(new TcpCoordinatorLink(impl));
  if (const Status shaken = impl->shake_hands(ticket, limit); !shaken)
    return Error{ticket.host + ", port " + std::to_string(ticket.port) + ": " + shaken.error().message};
  impl->read_header();
  return link;
}

TcpCoordinatorLink::TcpCoordinatorLink(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

TcpCoordinatorLink::~TcpCoordinatorLink() {
  impl_->close();
}

void TcpCoordinatorLink::send(Bytes frame) {
  if (impl_->closed) return;
  impl_->writing.push_back(std::move(frame));
  if (impl_->writing.size() == 1) impl_->write();
}

std::vector<Bytes> TcpCoordinatorLink::receive() {
  return std::exchange(impl_->inbox, {});
}

bool TcpCoordinatorLink::closed() const {
  return impl_->closed && impl_->inbox.empty();
}

void TcpCoordinatorLink::flush(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  impl_->io.restart();
  while (!impl_->closed && !impl_->writing.empty() && impl_->io.run_one_until(until) > 0) {
  }
}

}  // namespace finesweep::worker
