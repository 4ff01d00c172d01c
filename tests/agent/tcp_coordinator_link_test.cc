// A joining worker's side against whoever listens where its coordinator should.

#include "worker/agent/tcp_coordinator_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <thread>

#include "jobs/messages.h"

namespace finesweep::worker {
namespace {

using boost::asio::ip::tcp;
using testing::HasSubstr;
using namespace std::chrono_literals;

class TcpCoordinatorLinkTest : public testing::Test {
 protected:
  /// Listens, and behaves to the one that connects as `behave` says; then closes.
  void listen(std::function<void(tcp::socket&)> behave) {
    thread_ = std::thread([this, behave = std::move(behave)] {
      boost::system::error_code error;
      tcp::socket socket(listening_io_);
      acceptor_.accept(socket, error);
      if (!error) behave(socket);
    });
  }
  void TearDown() override { finish(); }
  /// Until who listened is done with what the test lent it.
  void finish() {
    if (thread_.joinable()) thread_.join();
  }
  Result<std::unique_ptr<TcpCoordinatorLink>> connect(std::chrono::milliseconds limit = 10s) {
    return TcpCoordinatorLink::connect(io, {"127.0.0.1", acceptor_.local_endpoint().port(), token, "/nowhere"},
                                       limit);
  }
  bool run_until(const std::function<bool()>& condition) {
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (!condition() && std::chrono::steady_clock::now() < until) {
      io.restart();
      io.run_for(1ms);
    }
    return condition();
  }
  static Bytes read(tcp::socket& socket, std::size_t bytes) {
    Bytes read(bytes);
    boost::system::error_code error;
    read.resize(boost::asio::read(socket, boost::asio::buffer(read), error));
    return read;
  }
  template <typename Buffer>
  static void write(tcp::socket& socket, const Buffer& bytes) {
    boost::system::error_code error;
    boost::asio::write(socket, boost::asio::buffer(bytes), error);
  }
  /// As a coordinator does.
  void shake_hands(tcp::socket& socket) const {
    const Greeting greeting = greet(*random_secret());
    write(socket, greeting);
    Answer answer{};
    const Bytes bytes = read(socket, kAnswerBytes);
    std::copy(bytes.begin(), bytes.end(), answer.begin());
    if (const auto confirmation = judge_answer(token, greeting, answer)) write(socket, *confirmation);
  }

  const Secret token = *random_secret();
  boost::asio::io_context io;

 private:
  boost::asio::io_context listening_io_;
  tcp::acceptor acceptor_{listening_io_, tcp::endpoint(boost::asio::ip::make_address("127.0.0.1"), 0)};
  std::thread thread_;
};

TEST_F(TcpCoordinatorLinkTest, frames_travel_both_ways_and_a_closed_connection_is_seen_after_the_last) {
  const Bytes hello = encode(Hello{std::string(100000, 'x'), 1, 0, "cpu"}), alive = encode(Alive{});
  Bytes heard;
  listen([&](tcp::socket& socket) {
    shake_hands(socket);
    heard = read(socket, hello.size());
    for (int i = 0; i < 3; ++i) write(socket, alive);
  });
  auto link = connect();
  ASSERT_TRUE(link) << link.error().message;
  (*link)->send(hello);
  (*link)->flush(10s);
  int frames = 0;
  EXPECT_TRUE(run_until([&] {
    EXPECT_FALSE((*link)->closed() && frames < 3);
    for (const Bytes& frame : (*link)->receive()) frames += frame == alive;
    return (*link)->closed();
  }));
  finish();
  EXPECT_EQ(frames, 3);
  EXPECT_EQ(heard, hello);
}

TEST_F(TcpCoordinatorLinkTest, one_that_passes_for_the_coordinator_gets_neither_the_token_nor_a_frame) {
  Bytes heard;
  listen([&](tcp::socket& socket) {
    write(socket, greet(*random_secret()));
    heard = read(socket, kAnswerBytes);
    write(socket, *random_secret());
    const Bytes more = read(socket, 1);
    heard.insert(heard.end(), more.begin(), more.end());
  });
  const auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_THAT(link.error().message, HasSubstr("does not know the token"));
  finish();
  EXPECT_EQ(heard.size(), kAnswerBytes);
  EXPECT_EQ(std::search(heard.begin(), heard.end(), token.begin(), token.begin() + 4), heard.end());
}

TEST_F(TcpCoordinatorLinkTest, a_coordinator_with_another_token_closes_and_that_is_said) {
  listen([&](tcp::socket& socket) {
    write(socket, greet(*random_secret()));
    read(socket, kAnswerBytes);
  });
  const auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_THAT(link.error().message, HasSubstr("did not take the token"));
}

TEST_F(TcpCoordinatorLinkTest, other_programs_and_other_versions_are_named) {
  const std::string banner = "220 mail.example.org ESMTP ready, and long enough\r\n";
  listen([&](tcp::socket& socket) {
    write(socket, banner);
    read(socket, 1);
  });
  const auto link = connect();
  ASSERT_FALSE(link);
  EXPECT_THAT(link.error().message, HasSubstr("does not speak finesweep's protocol"));
  finish();
}

TEST_F(TcpCoordinatorLinkTest, one_that_says_nothing_is_waited_for_only_so_long) {
  listen([&](tcp::socket& socket) { read(socket, 1); });
  const auto begun = std::chrono::steady_clock::now();
  const auto link = connect(200ms);
  ASSERT_FALSE(link);
  EXPECT_THAT(link.error().message, HasSubstr("does not greet as a coordinator does"));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 5s);
}

TEST_F(TcpCoordinatorLinkTest, where_nobody_listens_the_place_is_named) {
  const int port = [] {
    boost::asio::io_context other;
    return tcp::acceptor(other, tcp::endpoint(boost::asio::ip::make_address("127.0.0.1"), 0))
        .local_endpoint()
        .port();
  }();
  const auto link = TcpCoordinatorLink::connect(io, {"127.0.0.1", port, token, "/nowhere"}, 5s);
  ASSERT_FALSE(link);
  EXPECT_THAT(link.error().message, HasSubstr("127.0.0.1, port " + std::to_string(port)));
}

TEST_F(TcpCoordinatorLinkTest, what_is_no_frame_closes_the_link) {
  listen([&](tcp::socket& socket) {
    shake_hands(socket);
    write(socket, std::string(64, 'x'));
    read(socket, 1);
  });
  auto link = connect();
  ASSERT_TRUE(link) << link.error().message;
  EXPECT_TRUE(run_until([&] { return (*link)->closed(); }));
  EXPECT_TRUE((*link)->receive().empty());
}

}  // namespace
}  // namespace finesweep::worker
