#include "coordinator/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "storage/files.h"
#include "storage/status_file.h"
#include "tests/storage/temporary_folder.h"

namespace finesweep::coordinator {
namespace {

using namespace std::chrono_literals;
using boost::asio::ip::tcp;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const std::string kToken(64, 'a');

/// One connection to the page, with raw bytes: nothing that a client library would mend.
class Visitor {
 public:
  explicit Visitor(int port) {
    socket_.connect({boost::asio::ip::address_v4::loopback(), static_cast<std::uint16_t>(port)});
  }
  void send(const std::string& text) {
    boost::system::error_code ignored;  // the page may have closed it already
    boost::asio::write(socket_, boost::asio::buffer(text), ignored);
  }
  /// Until the page closes the connection.
  std::string rest() {
    std::string text;
    boost::system::error_code ended;
    boost::asio::read(socket_, boost::asio::dynamic_buffer(text), ended);
    return text;
  }

 private:
  boost::asio::io_context io_;
  tcp::socket socket_{io_};
};

class StatusPageTest : public ::testing::Test {
 protected:
  StatusPageTest() : run_(folder_.path()) {
    storage::StatusSnapshot status;
    status.sweep = "</script><b>odd";
    status.jobs.running = 3;
    EXPECT_TRUE(run_.create().ok());
    EXPECT_TRUE(storage::write_status(run_.status_file(), status).ok());
  }
  void serve(const StatusPageOptions& options = {}) {
    auto page = StatusPage::serve(run_, options, kToken);
    ASSERT_TRUE(page.ok()) << page.error().message;
    page_ = std::move(*page);
  }
  std::string send(const std::string& request) {
    Visitor visitor(page_->port());
    visitor.send(request);
    return visitor.rest();
  }
  std::string get(const std::string& target, const std::string& headers = "", const std::string& method = "GET") {
    return send(method + " " + target + " HTTP/1.1\r\nHost: here\r\nConnection: close\r\n" + headers + "\r\n");
  }
  std::string cookie() const {
    return "Cookie: other=1; finesweep-" + std::to_string(page_->port()) + "=" + kToken + "\r\n";
  }

  storage::TemporaryFolder folder_;
  storage::RunDirectory run_;
  std::unique_ptr<StatusPage> page_;
};

TEST_F(StatusPageTest, the_token_in_the_address_becomes_a_cookie_that_shows_page_and_status) {
  serve();
  const std::string first = get("/?token=" + kToken);
  EXPECT_THAT(first, StartsWith("HTTP/1.1 303"));
  EXPECT_THAT(first, HasSubstr("Location: /\r\n"));
  EXPECT_THAT(first, HasSubstr("Set-Cookie: finesweep-" + std::to_string(page_->port()) + "=" + kToken +
                               "; Path=/; HttpOnly; SameSite=Strict\r\n"));
  const std::string page = get("/", cookie());
  EXPECT_THAT(page, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(page, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page, Not(HasSubstr("odd"))) << "what the sweep is called is put in by the script, as text";
  EXPECT_THAT(page, Not(HasSubstr("@nonce@")));
  EXPECT_THAT(page, Not(HasSubstr("@styles@")));
  EXPECT_THAT(page, HasSubstr("script-src 'nonce-"));
  EXPECT_NE(get("/", cookie()), page) << "a nonce is used once";
  const std::string status = get("/status.json", cookie());
  EXPECT_THAT(status, HasSubstr("Content-Type: application/json"));
  const Json json = Json::parse(status.substr(status.find("\r\n\r\n")));
  EXPECT_EQ(json.at("jobs").at("running"), 3);
  EXPECT_THAT(get("/status.json?token=" + kToken), StartsWith("HTTP/1.1 200")) << "for scripts";
}

TEST_F(StatusPageTest, the_report_is_there_once_it_is_written_and_nothing_else_ever) {
  serve();
  EXPECT_THAT(get("/report.html", cookie()), StartsWith("HTTP/1.1 404"));
  ASSERT_TRUE(storage::write_file_atomically(run_.reports() / "report.html", "the report").ok());
  EXPECT_THAT(get("/report.html", cookie()), HasSubstr("the report"));
  const std::string head = get("/report.html", cookie(), "HEAD");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(head, HasSubstr("Content-Length: 10"));
  EXPECT_THAT(head, Not(HasSubstr("the report")));
  for (const char* target : {"/sweep.yaml", "/../sweep.yaml", "/reports/../status.json", "/%2e%2e/status.json",
                             "//", "/status.json/", "/finesweep.db", "*"})
    EXPECT_THAT(get(target, cookie()), StartsWith("HTTP/1.1 404")) << target;
}

TEST_F(StatusPageTest, who_does_not_show_the_token_learns_nothing) {
  serve();
  const std::string almost = std::string(63, 'a') + "b", port = std::to_string(page_->port());
  for (const std::string& headers :
       {std::string(), "Cookie: finesweep-" + port + "=" + almost + "\r\n", "Cookie: finesweep-" + port + "=\r\n",
        "Cookie: finesweep-1=" + kToken + "\r\n", "Cookie: finesweep-" + port + "=" + kToken + "a\r\n",
        "Authorization: Bearer " + almost + "\r\n", "Cookie: ;;=;" + kToken + "\r\n"}) {
    for (const char* target : {"/", "/status.json", "/report.html", "/nothing"}) {
      const std::string answer = get(target, headers);
      EXPECT_THAT(answer, StartsWith("HTTP/1.1 403")) << target << " " << headers;
      EXPECT_THAT(answer, Not(HasSubstr("odd")));
      EXPECT_THAT(answer, Not(HasSubstr(kToken)));
    }
  }
  for (const std::string& query : {"token=" + almost, std::string("token="), std::string("token"), "x=" + kToken,
                                   "token=" + kToken.substr(1), "token=" + kToken + "%00"})
    EXPECT_THAT(get("/status.json?" + query), StartsWith("HTTP/1.1 403")) << query;
}

TEST_F(StatusPageTest, nothing_can_be_sent_to_it) {
  serve();
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"}) {
    const std::string answer = get("/status.json", cookie(), method);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 405")) << method;
  }
  EXPECT_EQ(get("/status.json", cookie() + "Content-Length: 5\r\n"), "") << "a body is not waited for";
  EXPECT_EQ(get("/status.json", cookie() + "Transfer-Encoding: chunked\r\n"), "");
}

TEST_F(StatusPageTest, oversized_and_senseless_requests_are_cut_off) {
  serve();
  EXPECT_EQ(get("/" + std::string(9000, 'x'), cookie()), "");
  EXPECT_EQ(get("/", cookie() + "X-Long: " + std::string(100000, 'x') + "\r\n"), "");
  std::string many;
  for (int i = 0; i < 2000; ++i) many += "X: y\r\n";
  EXPECT_EQ(get("/", many), "");
  for (const std::string& garbage :
       {std::string("\0\0\0\0\r\n\r\n", 8), std::string("FSWJ garbage\r\n\r\n"), std::string("GET\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15),
        std::string("GET / HTTP/9.9\r\n\r\n"), "GET / HTTP/1.1\r\n" + std::string(20, '\xff') + "\r\n\r\n"})
    EXPECT_EQ(send(garbage), "");
  EXPECT_THAT(get("/status.json", cookie()), StartsWith("HTTP/1.1 200")) << "others are served as before";
}

TEST_F(StatusPageTest, slow_and_silent_visitors_are_cut_off_in_time) {
  StatusPageOptions options;
  options.time_limit = 200ms;
  serve(options);
  const auto begun = std::chrono::steady_clock::now();
  Visitor silent(page_->port());
  EXPECT_EQ(silent.rest(), "");
  // A byte now and then does not lengthen it.
  Visitor slow(page_->port());
  for (const char c : std::string("GET / HTTP/1.1\r\nX-Endless: ") + std::string(30, 'x')) {
    slow.send({c});
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(slow.rest(), "");
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 10s);
}

TEST_F(StatusPageTest, one_connection_too_many_is_closed_and_makes_room_when_others_leave) {
  StatusPageOptions options;
  options.max_connections = 3;
  serve(options);
  {
    std::vector<std::unique_ptr<Visitor>> visitors;
    for (int i = 0; i < 3; ++i) {
      visitors.push_back(std::make_unique<Visitor>(page_->port()));
      visitors.back()->send("GET /status.json HTTP/1.1\r\n");
    }
    EXPECT_EQ(get("/status.json", cookie()), "");
  }
  const auto until = std::chrono::steady_clock::now() + 10s;
  std::string answer;
  while (answer.empty() && std::chrono::steady_clock::now() < until) answer = get("/status.json", cookie());
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
}

TEST_F(StatusPageTest, one_connection_serves_many_requests) {
  serve();
  Visitor visitor(page_->port());
  const std::string request = "GET /status.json HTTP/1.1\r\nHost: here\r\n" + cookie();
  visitor.send(request + "\r\n" + request + "\r\n" + request + "Connection: close\r\n\r\n");
  const std::string answers = visitor.rest();
  std::size_t count = 0;
  for (std::size_t at = answers.find("HTTP/1.1 200"); at != std::string::npos;
       at = answers.find("HTTP/1.1 200", at + 1))
    ++count;
  EXPECT_EQ(count, 3u);
}

TEST_F(StatusPageTest, a_port_that_is_taken_and_an_address_of_another_host_are_named) {
  serve();
  StatusPageOptions taken;
  taken.port = page_->port();
  const auto second = StatusPage::serve(run_, taken, kToken);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.error().message, HasSubstr("port " + std::to_string(taken.port)));
  StatusPageOptions elsewhere;
  elsewhere.address = "192.0.2.1";
  const auto never = StatusPage::serve(run_, elsewhere, kToken);
  ASSERT_FALSE(never.ok());
  EXPECT_THAT(never.error().message, HasSubstr("192.0.2.1"));
}

TEST_F(StatusPageTest, its_file_is_its_owners_and_the_next_coordinator_opens_the_same_page) {
  std::string url;
  std::string left;
  {
    const auto first = OpenStatusPage::open(run_, {});
    ASSERT_TRUE(first.ok()) << first.error().message;
    url = (*first)->ticket().url;
    EXPECT_THAT(url, StartsWith("http://127.0.0.1:" + std::to_string((*first)->ticket().port) + "/?token="));
    struct stat file {};
    ASSERT_EQ(stat(run_.status_page_file().c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 0777, 0600u);
    left = *storage::read_file(run_.status_page_file());
    const auto other = OpenStatusPage::open(storage::RunDirectory(folder_ / "other"), {});
    EXPECT_FALSE(other.ok()) << "a folder that is not there";
  }
  EXPECT_FALSE(std::filesystem::exists(run_.status_page_file()));
  // A coordinator that was killed leaves it.
  ASSERT_TRUE(storage::write_file_atomically(run_.status_page_file(), left).ok());
  EXPECT_EQ((*OpenStatusPage::open(run_, {}))->ticket().url, url);
  // What somebody else has put there is not used.
  ASSERT_TRUE(storage::write_file_atomically(run_.status_page_file(),
                                             R"({"port": 1, "token": "; Domain=x", "url": "http://elsewhere"})")
                  .ok());
  const auto anew = OpenStatusPage::open(run_, {});
  ASSERT_TRUE(anew.ok()) << anew.error().message;
  EXPECT_EQ((*anew)->ticket().token.size(), 64u);
  EXPECT_NE((*anew)->ticket().url, url);
}

}  // namespace
}  // namespace finesweep::coordinator
