// The coordinator's side of joining workers against real sockets: those that know the token, and all others.

#include "coordinator/tcp_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <functional>
#include <thread>

#include "jobs/messages.h"

namespace finesweep::coordinator {
namespace {

using boost::asio::ip::tcp;
using testing::HasSubstr;
using namespace std::chrono_literals;

bool wait_for(const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

/// Whoever connects. Reads and writes block; a closed connection reads as its end.
class Client {
 public:
  explicit Client(int port) : socket_(io_) {
    socket_.connect({boost::asio::ip::make_address("127.0.0.1"), static_cast<std::uint16_t>(port)});
  }
  bool write(const Bytes& bytes) {
    boost::system::error_code error;
    boost::asio::write(socket_, boost::asio::buffer(bytes), error);
    return !error;
  }
  /// So many bytes, or fewer where the connection ends before.
  Bytes read(std::size_t bytes) {
    Bytes read(bytes);
    boost::system::error_code error;
    read.resize(boost::asio::read(socket_, boost::asio::buffer(read), error));
    return read;
  }
  bool is_cut_off() { return read(1).empty(); }
  Greeting greeting() {
    Greeting greeting{};
    const Bytes bytes = read(kGreetingBytes);
    std::copy(bytes.begin(), bytes.end(), greeting.begin());
    return greeting;
  }
  /// False where it was not admitted.
  bool join(const Secret& token) {
    const Greeting said = greeting();
    const Answer answer = *answer_greeting(token, said, *random_secret());
    write(Bytes(answer.begin(), answer.end()));
    const Bytes bytes = read(kConfirmationBytes);
    if (bytes.size() < kConfirmationBytes) return false;
    Confirmation confirmation;
    std::copy(bytes.begin(), bytes.end(), confirmation.begin());
    return check_confirmation(token, said, answer, confirmation).ok();
  }

 private:
  boost::asio::io_context io_;
  tcp::socket socket_;
};

class TcpLinkTest : public testing::Test {
 protected:
  void listen(std::chrono::milliseconds limit = 5s, int strangers = 16, int workers = 8) {
    TcpLinkOptions options;
    options.first_rank = 3;
    options.handshake_limit = limit;
    options.max_strangers = strangers;
    options.max_workers = workers;
    auto listening = TcpLink::listen(options, token);
    ASSERT_TRUE(listening) << listening.error().message;
    link = std::move(*listening);
  }
  std::string next_refusal() {
    wait_for([&] {
      for (std::string& why : link->refused()) refusals.push_back(std::move(why));
      return !refusals.empty();
    });
    if (refusals.empty()) return "none";
    const std::string first = refusals.front();
    refusals.erase(refusals.begin());
    return first;
  }
  WorkerLink::Received next() {
    wait_for([&] {
      for (auto& received : link->receive()) arrived.push_back(std::move(received));
      return !arrived.empty();
    });
    if (arrived.empty()) return {-1, {}};
    auto first = std::move(arrived.front());
    arrived.erase(arrived.begin());
    return first;
  }
  /// A worker that joins now is served as if nothing had happened.
  void expect_that_workers_can_join() {
    Client worker(link->port());
    ASSERT_TRUE(worker.join(token));
    const Bytes hello = encode(Hello{"node", 1, 0, "cpu"});
    worker.write(hello);
    const auto received = next();
    EXPECT_EQ(received.frame, hello);
    const Bytes alive = encode(Alive{});
    link->send(received.rank, alive);
    EXPECT_EQ(worker.read(alive.size()), alive);
  }

  const Secret token = *random_secret();
  std::unique_ptr<TcpLink> link;
  std::vector<std::string> refusals;
  std::vector<WorkerLink::Received> arrived;
};

TEST_F(TcpLinkTest, frames_travel_both_ways_whole_and_in_order_and_ranks_are_not_used_twice) {
  listen();
  for (const int rank : {3, 4}) {
    Client worker(link->port());
    ASSERT_TRUE(worker.join(token));
    Bytes sent;
    for (int i = 0; i < 200; ++i) {
      const Bytes frame = encode(Hello{std::string(static_cast<std::size_t>(i) * 997, 'x'), i, 0, "cpu"});
      sent.insert(sent.end(), frame.begin(), frame.end());
    }
    std::thread writing([&] { worker.write(sent); });
    Bytes received;
    while (received.size() < sent.size()) {
      const auto frame = next();
      EXPECT_EQ(frame.rank, rank);
      if (frame.closed || frame.frame.empty()) break;
      received.insert(received.end(), frame.frame.begin(), frame.frame.end());
      link->send(rank, frame.frame);
    }
    EXPECT_EQ(received, sent);
    EXPECT_EQ(worker.read(sent.size()), sent);
    writing.join();
    link->forget(rank);
    EXPECT_TRUE(next().closed);
  }
}

TEST_F(TcpLinkTest, a_closed_connection_is_told_once_after_its_last_frame) {
  listen();
  {
    Client worker(link->port());
    ASSERT_TRUE(worker.join(token));
    worker.write(encode(Goodbye{{3, 1}}));
  }
  EXPECT_FALSE(next().closed);
  const auto end = next();
  EXPECT_TRUE(end.closed);
  EXPECT_EQ(end.rank, 3);
  link->send(3, encode(Alive{}));  // nobody is there: nothing happens
  expect_that_workers_can_join();
  EXPECT_TRUE(link->refused().empty());
}

TEST_F(TcpLinkTest, another_token_is_refused) {
  listen();
  Client stranger(link->port());
  EXPECT_FALSE(stranger.join(*random_secret()));
  EXPECT_THAT(next_refusal(), testing::AllOf(HasSubstr("127.0.0.1:"), HasSubstr("does not know the token")));
  expect_that_workers_can_join();
}

TEST_F(TcpLinkTest, an_answer_that_was_recorded_is_of_no_use) {
  listen();
  Client first(link->port());
  const Answer answer = *answer_greeting(token, first.greeting(), *random_secret());
  first.write(Bytes(answer.begin(), answer.end()));
  EXPECT_EQ(first.read(kConfirmationBytes).size(), kConfirmationBytes);
  Client replaying(link->port());
  replaying.greeting();
  replaying.write(Bytes(answer.begin(), answer.end()));
  EXPECT_TRUE(replaying.is_cut_off());
  EXPECT_THAT(next_refusal(), HasSubstr("does not know the token"));
}

TEST_F(TcpLinkTest, frames_before_the_token_garbage_and_nothing_at_all_are_refused) {
  listen();
  const Bytes frame = encode(Hello{std::string(100, 'x'), 1, 0, "cpu"});
  const std::string request =
      "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: something long enough to be read\r\n\r\n";
  for (const Bytes& bytes : {frame, Bytes(request.begin(), request.end()), Bytes(1 << 20, 0xff)}) {
    Client stranger(link->port());
    stranger.greeting();
    stranger.write(bytes);
    EXPECT_TRUE(stranger.is_cut_off());
    EXPECT_THAT(next_refusal(), HasSubstr("does not speak finesweep's protocol"));
  }
  { Client silent(link->port()); }
  EXPECT_THAT(next_refusal(), HasSubstr("closed the connection without the token"));
  EXPECT_TRUE(link->receive().empty());
  expect_that_workers_can_join();
}

TEST_F(TcpLinkTest, who_is_silent_or_slow_is_dropped) {
  listen(500ms);
  Client silent(link->port()), slow(link->port());
  const Answer answer = *answer_greeting(token, slow.greeting(), *random_secret());
  std::thread trickling([&] {
    for (const std::uint8_t byte : answer) {
      if (!slow.write({byte})) break;
      std::this_thread::sleep_for(20ms);
    }
  });
  silent.greeting();
  EXPECT_TRUE(silent.is_cut_off());
  EXPECT_TRUE(slow.is_cut_off());
  trickling.join();
  for (int i = 0; i < 2; ++i) EXPECT_THAT(next_refusal(), HasSubstr("in time"));
  expect_that_workers_can_join();
}

TEST_F(TcpLinkTest, strangers_beyond_the_limit_are_turned_away_and_make_room_in_time) {
  listen(3s, 3);
  Client worker(link->port());
  ASSERT_TRUE(worker.join(token));
  Client first(link->port()), second(link->port()), third(link->port());
  for (Client* client : {&first, &second, &third}) client->greeting();
  Client fourth(link->port());
  EXPECT_TRUE(fourth.is_cut_off());
  EXPECT_THAT(next_refusal(), HasSubstr("too many at once"));
  const Bytes hello = encode(Hello{"node", 1, 0, "cpu"});
  worker.write(hello);
  EXPECT_EQ(next().frame, hello) << "a worker that had joined does not notice";
  for (Client* client : {&first, &second, &third}) EXPECT_TRUE(client->is_cut_off());
  expect_that_workers_can_join();
}

TEST_F(TcpLinkTest, workers_beyond_the_limit_are_turned_away) {
  listen(5s, 16, 2);
  Client first(link->port()), second(link->port()), third(link->port());
  EXPECT_TRUE(first.join(token));
  EXPECT_TRUE(second.join(token));
  EXPECT_FALSE(third.join(token));
  EXPECT_THAT(next_refusal(), HasSubstr("as many joined workers as there may be"));
}

TEST_F(TcpLinkTest, a_worker_that_sends_no_frames_or_an_absurd_length_is_cut_off) {
  listen();
  Bytes absurd = encode(Alive{}), damaged = encode(Hello{"node", 1, 0, "cpu"});
  for (std::size_t i = 8; i < 12; ++i) absurd[i] = 0xff;
  for (const Bytes& bytes : {absurd, Bytes(4096, 'x')}) {
    Client worker(link->port());
    ASSERT_TRUE(worker.join(token));
    worker.write(bytes);
    EXPECT_TRUE(worker.is_cut_off());
    EXPECT_TRUE(next().closed);
    EXPECT_THAT(next_refusal(), HasSubstr("frame"));
  }
  // A damaged payload is the driver's to refuse.
  Client worker(link->port());
  ASSERT_TRUE(worker.join(token));
  damaged.back() ^= 1;
  worker.write(damaged);
  EXPECT_EQ(next().frame, damaged);
}

TEST_F(TcpLinkTest, a_worker_that_is_forgotten_is_cut_off) {
  listen();
  Client worker(link->port());
  ASSERT_TRUE(worker.join(token));
  link->forget(3);
  EXPECT_TRUE(worker.is_cut_off());
}

TEST_F(TcpLinkTest, who_sends_without_end_is_read_only_as_far_as_the_coordinator_keeps_up) {
  listen();
  Client worker(link->port());
  ASSERT_TRUE(worker.join(token));
  const Bytes large = encode(Hello{std::string(8 << 20, 'x'), 1, 0, "cpu"});
  constexpr int kFrames = 30;
  std::atomic<int> written{0};
  std::thread writing([&] {
    for (int i = 0; i < kFrames; ++i) {
      if (!worker.write(large)) return;
      ++written;
    }
  });
  std::this_thread::sleep_for(500ms);  // nobody receives: it must stand still by then
  EXPECT_LT(written, kFrames);
  for (int i = 0; i < kFrames; ++i) EXPECT_EQ(next().frame.size(), large.size());
  writing.join();
}

TEST_F(TcpLinkTest, many_that_know_nothing_do_not_keep_a_worker_from_its_work) {
  listen(300ms);
  Client worker(link->port());
  ASSERT_TRUE(worker.join(token));
  std::atomic<bool> done{false};
  std::vector<std::thread> attackers;
  for (int i = 0; i < 4; ++i)
    attackers.emplace_back([&] {
      while (!done) {
        try {
          Client stranger(link->port());
          stranger.write(Bytes(100, 'x'));
        } catch (const std::exception&) {  // its own connection was refused
        }
      }
    });
  const Bytes hello = encode(Hello{"node", 1, 0, "cpu"});
  for (int i = 0; i < 300; ++i) {
    worker.write(hello);
    ASSERT_EQ(next().frame, hello);
    link->send(3, hello);
    ASSERT_EQ(worker.read(hello.size()), hello);
  }
  done = true;
  for (std::thread& attacker : attackers) attacker.join();
  EXPECT_FALSE(link->refused().empty());
}

TEST_F(TcpLinkTest, an_address_that_is_not_ours_and_a_port_that_is_taken_are_named) {
  listen();
  TcpLinkOptions options;
  options.port = link->port();
  const auto taken = TcpLink::listen(options, token);
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().message, HasSubstr("port " + std::to_string(link->port())));
  for (const char* address : {"203.0.113.7", "localhost", ""}) {
    options.address = address;
    options.port = 0;
    const auto elsewhere = TcpLink::listen(options, token);
    ASSERT_FALSE(elsewhere) << address;
    EXPECT_THAT(elsewhere.error().message, HasSubstr("cannot listen on " + std::string(address)));
  }
}

}  // namespace
}  // namespace finesweep::coordinator
