#include "coordinator/tcp_link.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "coordinator/tcp_listener.h"

namespace finesweep::coordinator {

namespace {

using boost::asio::ip::tcp;
using boost::system::error_code;

/// Bytes that wait for receive(), and for a worker that does not read.
constexpr std::size_t kMostUnread = std::size_t{64} << 20;
constexpr std::size_t kMostUnsent = std::size_t{256} << 20;

}  // namespace

/// All but what the mutex guards belongs to the thread.
struct TcpLink::Impl {
  struct Connection : std::enable_shared_from_this<Connection> {
    Connection(Impl& owner, tcp::socket socket) : owner(owner), socket(std::move(socket)), limit(owner.io) {}

    Impl& owner;
    tcp::socket socket;
    boost::asio::steady_timer limit;  // of the handshake
    std::string peer;
    Greeting greeting;
    Answer answer;
    int rank = -1;  // of a worker
    Bytes frame;
    std::deque<Bytes> writing;
    std::size_t unsent = 0;

    // ---- a stranger ----

    void shake_hands(const Secret& nonce) {
      greeting = greet(nonce);
      const auto self = shared_from_this();
      limit.expires_after(owner.options.handshake_limit);
      limit.async_wait([self](const error_code& error) {
        if (!error && self->rank < 0) self->turn_away("it did not show in time that it knows the token");
      });
      boost::asio::async_write(socket, boost::asio::buffer(greeting), [self](const error_code&, std::size_t) {});
      boost::asio::async_read(socket, boost::asio::buffer(answer), [self](const error_code& error, std::size_t) {
        if (!self->socket.is_open()) return;  // turned away meanwhile
        if (error) return self->turn_away("it closed the connection without the token");
        const auto confirmation = judge_answer(self->owner.token, self->greeting, self->answer);
        if (!confirmation) return self->turn_away(confirmation.error().message);
        self->admit(*confirmation);
      });
    }

    void turn_away(const std::string& why) {
      error_code ignored;
      socket.close(ignored);
      limit.cancel();
      owner.strangers.erase(shared_from_this());
      owner.tell_refused(peer + ": " + why);
    }

    void admit(const Confirmation& confirmation) {
      if (static_cast<int>(owner.workers.size()) >= owner.options.max_workers)
        return turn_away("there are as many joined workers as there may be");
      limit.cancel();
      rank = owner.next_rank++;
      owner.strangers.erase(shared_from_this());
      owner.workers[rank] = shared_from_this();
      send(Bytes(confirmation.begin(), confirmation.end()));
      read_header();
    }

    // ---- a worker ----

    void read_header() {
      if (owner.must_wait(shared_from_this())) return;
      frame.resize(kFrameHeaderBytes);
      boost::asio::async_read(socket, boost::asio::buffer(frame),
                              [self = shared_from_this()](const error_code& error, std::size_t) {
                                if (error) return self->cut_off();
                                const auto size = frame_size(self->frame.data());
                                if (!size) return self->cut_off(size.error().message);
                                self->read_payload(*size);
                              });
    }

    void read_payload(std::size_t size) {
      frame.resize(size);
      boost::asio::async_read(socket,
                              boost::asio::buffer(frame.data() + kFrameHeaderBytes, size - kFrameHeaderBytes),
                              [self = shared_from_this()](const error_code& error, std::size_t) {
                                if (error) return self->cut_off();
                                self->owner.put({self->rank, std::exchange(self->frame, {})});
                                self->read_header();
                              });
    }

    void send(Bytes bytes) {
      unsent += bytes.size();
      if (unsent > kMostUnsent) return cut_off();
      writing.push_back(std::move(bytes));
      if (writing.size() == 1) write();
    }

    void write() {
      boost::asio::async_write(socket, boost::asio::buffer(writing.front()),
                               [self = shared_from_this()](const error_code& error, std::size_t) {
                                 if (error) return self->cut_off();
                                 self->unsent -= self->writing.front().size();
                                 self->writing.pop_front();
                                 if (!self->writing.empty()) self->write();
                               });
    }

    /// `why`: what it did wrong.
    void cut_off(const std::string& why = "") {
      if (owner.workers.erase(rank) == 0) return;
      error_code ignored;
      socket.close(ignored);
      if (!why.empty()) owner.tell_refused("worker " + std::to_string(rank) + " at " + peer + ": " + why);
      owner.put({rank, {}, true});
    }
  };
  using ConnectionPtr = std::shared_ptr<Connection>;

  Impl(const TcpLinkOptions& options, const Secret& token)
      : options(options), token(token), next_rank(options.first_rank) {}

  const TcpLinkOptions options;
  const Secret token;
  boost::asio::io_context io{1};
  TcpListener listener{io};
  std::set<ConnectionPtr> strangers;
  std::map<int, ConnectionPtr> workers;
  std::vector<ConnectionPtr> waiting;  // for receive() to make room
  int next_rank;
  std::thread thread;

  std::mutex mutex;
  std::vector<Received> inbox;
  std::size_t unread = 0;
  bool full = false;  // somebody waits
  std::vector<std::string> refusals;

  void welcome(tcp::socket socket) {
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.set_option(tcp::socket::keep_alive(true), ignored);
    const auto connection = std::make_shared<Connection>(*this, std::move(socket));
    error_code unknown;
    const auto peer = connection->socket.remote_endpoint(unknown);
    connection->peer = unknown ? "somebody" : peer.address().to_string() + ":" + std::to_string(peer.port());
    if (static_cast<int>(strangers.size()) >= options.max_strangers)
      return connection->turn_away("too many at once that have not shown that they know the token");
    const auto nonce = random_secret();
    if (!nonce) return connection->turn_away(nonce.error().message);
    strangers.insert(connection);
    connection->shake_hands(*nonce);
  }

  void put(Received received) {
    const std::lock_guard lock(mutex);
    unread += received.frame.size();
    inbox.push_back(std::move(received));
  }

  bool must_wait(const ConnectionPtr& connection) {
    const std::lock_guard lock(mutex);
    if (unread < kMostUnread) return false;
    waiting.push_back(connection);
    full = true;
    return true;
  }

  void tell_refused(std::string what) {
    const std::lock_guard lock(mutex);
    refusals.push_back(std::move(what));
  }
};

Result<std::unique_ptr<TcpLink>> TcpLink::listen(const TcpLinkOptions& options, const Secret& token) {
  auto impl = std::make_unique<Impl>(options, token);
  if (const Status listening = impl->listener.listen(options.address, options.port); !listening)
    return listening.error();
  impl->listener.accept([impl = impl.get()](tcp::socket socket) { impl->welcome(std::move(socket)); });
  impl->thread = run_in_thread(impl->io);
  return std::unique_ptr<TcpLink>(new TcpLink(std::move(impl)));
}

TcpLink::TcpLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

TcpLink::~TcpLink() {
  impl_->io.stop();
  impl_->thread.join();
}

int TcpLink::port() const {
  return impl_->listener.port();
}

void TcpLink::send(int rank, Bytes frame) {
  boost::asio::post(impl_->io, [impl = impl_.get(), rank, frame = std::move(frame)]() mutable {
    const auto worker = impl->workers.find(rank);
    if (worker == impl->workers.end()) return;
    const auto connection = worker->second;  // sending may cut it off
    connection->send(std::move(frame));
  });
}

void TcpLink::forget(int rank) {
  boost::asio::post(impl_->io, [impl = impl_.get(), rank] {
    if (const auto worker = impl->workers.find(rank); worker != impl->workers.end()) {
      const auto connection = worker->second;
      connection->cut_off();
    }
  });
}

std::vector<WorkerLink::Received> TcpLink::receive() {
  const std::lock_guard lock(impl_->mutex);
  impl_->unread = 0;
  if (std::exchange(impl_->full, false))
    boost::asio::post(impl_->io, [impl = impl_.get()] {
      for (const auto& connection : std::exchange(impl->waiting, {})) connection->read_header();
    });
  return std::exchange(impl_->inbox, {});
}

std::vector<std::string> TcpLink::refused() {
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->refusals, {});
}

}  // namespace finesweep::coordinator
