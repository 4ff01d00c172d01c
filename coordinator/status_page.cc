#include "coordinator/status_page.h"

#include <openssl/crypto.h>

#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "coordinator/devices.h"
#include "coordinator/page_resource.h"
#include "coordinator/tcp_listener.h"
#include "jobs/join.h"
#include "jobs/json.h"
#include "jobs/sha256.h"
#include "reports/page_resources.h"
#include "storage/files.h"

namespace finesweep::coordinator {

namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::asio::ip::tcp;
using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

constexpr std::uint32_t kMostHeaderBytes = 8192;

bool same_text(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

/// The value of `name` in "a=1; b=2", with `separator` between them; empty where it is not there.
std::string_view value_of(std::string_view pairs, std::string_view name, char separator) {
  while (!pairs.empty()) {
    const auto end = std::min(pairs.find(separator), pairs.size());
    std::string_view pair = pairs.substr(0, end);
    pairs.remove_prefix(std::min(end + 1, pairs.size()));
    pair.remove_prefix(std::min(pair.find_first_not_of(' '), pair.size()));
    if (pair.size() > name.size() && pair.starts_with(name) && pair[name.size()] == '=')
      return pair.substr(name.size() + 1);
  }
  return {};
}

std::string replaced(std::string text, const std::string& what, std::string_view by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size()))
    text.replace(at, what.size(), by);
  return text;
}

/// What is answered, from a request alone and the two files.
class Answers {
 public:
  Answers(storage::RunDirectory run, std::string token) : run_(std::move(run)), token_(std::move(token)) {}

  Response answer(const Request& request, int port) const {
    if (request.method() != http::verb::get && request.method() != http::verb::head) {
      Response refused = plain(request, http::status::method_not_allowed, "only GET: this page changes nothing\n");
      refused.set(http::field::allow, "GET, HEAD");
      return refused;
    }
    const std::string_view target(request.target().data(), request.target().size());
    const std::string_view path = target.substr(0, target.find('?'));
    const std::string_view query = path.size() < target.size() ? target.substr(path.size() + 1) : "";
    const std::string cookie = "finesweep-" + std::to_string(port);  // cookies do not tell ports apart
    const auto cookies = request[http::field::cookie];
    const bool shown = same_text(value_of(query, "token", '&'), token_);
    if (shown && path == "/") {
      // Away from the address bar and from what is passed on as the referrer.
      Response there = plain(request, http::status::see_other, "");
      there.set(http::field::location, "/");
      there.set(http::field::set_cookie, cookie + "=" + token_ + "; Path=/; HttpOnly; SameSite=Strict");
      return there;
    }
    if (!shown && !same_text(value_of({cookies.data(), cookies.size()}, cookie, ';'), token_))
      return plain(request, http::status::forbidden,
                   "This page wants its token: open the whole address that `finesweep run` printed; it is in "
                   "status-page.json too.\n");
    if (path == "/") return page(request);
    if (path == "/status.json") return file(request, run_.status_file(), "application/json", "default-src 'none'");
    // One file, with its scripts and styles in it.
    if (path == "/report.html")
      return file(request, run_.reports() / "report.html", "text/html; charset=utf-8",
                  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:");
    return plain(request, http::status::not_found, "There is /, /status.json and /report.html.\n");
  }

 private:
  static Response with(const Request& request, http::status status, const std::string& type, std::string body,
                       const std::string& policy) {
    Response response(status, request.version());
    response.set(http::field::content_type, type);
    response.set(http::field::cache_control, "no-store");
    response.set("Content-Security-Policy",
                 policy + "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    response.set("X-Content-Type-Options", "nosniff");
    response.set("Referrer-Policy", "no-referrer");
    response.keep_alive(request.keep_alive());
    response.content_length(body.size());
    if (request.method() != http::verb::head) response.body() = std::move(body);
    return response;
  }

  static Response plain(const Request& request, http::status status, std::string text) {
    return with(request, status, "text/plain; charset=utf-8", std::move(text), "default-src 'none'");
  }

  static Response page(const Request& request) {
    const auto secret = random_secret();
    if (!secret) return plain(request, http::status::internal_server_error, secret.error().message + "\n");
    const std::string nonce = to_hex(secret->data(), 16);
    static const std::string styled = replaced(std::string(status_page()), "@styles@", reports::page_styles());
    return with(
        request, http::status::ok, "text/html; charset=utf-8", replaced(styled, "@nonce@", nonce),
        "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'nonce-" + nonce + "'");
  }

  static Response file(const Request& request, const std::filesystem::path& path, const std::string& type,
                       const std::string& policy) {
    auto text = storage::read_file(path);
    if (!text) return plain(request, http::status::not_found, "not written yet\n");
    return with(request, http::status::ok, type, std::move(*text), policy);
  }

  storage::RunDirectory run_;
  std::string token_;
};

}  // namespace

/// All of it belongs to the thread.
struct StatusPage::Impl {
  struct Connection : std::enable_shared_from_this<Connection> {
    Connection(Impl& owner, tcp::socket socket) : owner(owner), stream(std::move(socket)) {}

    Impl& owner;
    beast::tcp_stream stream;
    beast::flat_buffer buffer{kMostHeaderBytes};
    std::optional<http::request_parser<http::empty_body>> parser;
    Response response;

    void read() {
      parser.emplace();
      parser->header_limit(kMostHeaderBytes);
      stream.expires_after(owner.options.time_limit);
      http::async_read_header(
          stream, buffer, *parser, [self = shared_from_this()](const beast::error_code& error, std::size_t) {
            // What is not done has a body.
            if (error || !self->parser->is_done()) return self->close();
            self->response = self->owner.answers.answer(self->parser->get(), self->owner.listener.port());
            self->write();
          });
    }

    void write() {
      stream.expires_after(owner.options.time_limit);
      http::async_write(stream, response, [self = shared_from_this()](const beast::error_code& error, std::size_t) {
        if (error || !self->response.keep_alive()) return self->close();
        self->read();
      });
    }

    void close() {
      beast::error_code ignored;
      stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
      stream.close();
      owner.connections.erase(shared_from_this());
    }
  };

  Impl(const storage::RunDirectory& run, const StatusPageOptions& options, const std::string& token)
      : options(options), answers(run, token) {}

  const StatusPageOptions options;
  const Answers answers;
  boost::asio::io_context io{1};
  TcpListener listener{io};
  std::set<std::shared_ptr<Connection>> connections;
  std::thread thread;

  void welcome(tcp::socket socket) {
    // One too many is closed as it goes out of scope.
    if (static_cast<int>(connections.size()) >= options.max_connections) return;
    const auto connection = std::make_shared<Connection>(*this, std::move(socket));
    connections.insert(connection);
    connection->read();
  }
};

Result<std::unique_ptr<StatusPage>> StatusPage::serve(const storage::RunDirectory& run,
                                                      const StatusPageOptions& options, const std::string& token) {
  auto impl = std::make_unique<Impl>(run, options, token);
  if (const Status listening = impl->listener.listen(options.address, options.port); !listening)
    return listening.error();
  impl->listener.accept([impl = impl.get()](tcp::socket socket) { impl->welcome(std::move(socket)); });
  impl->thread = run_in_thread(impl->io);
  return std::unique_ptr<StatusPage>(new StatusPage(std::move(impl)));
}

StatusPage::StatusPage(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusPage::~StatusPage() {
  impl_->io.stop();
  impl_->thread.join();
}

int StatusPage::port() const {
  return impl_->listener.port();
}

std::string write_status_page_ticket(const StatusPageTicket& ticket) {
  return Json{{"port", ticket.port}, {"token", ticket.token}, {"url", ticket.url}}.dump(2) + "\n";
}

Result<StatusPageTicket> read_status_page_ticket(const storage::RunDirectory& run) {
  const auto text = storage::read_file(run.status_page_file());
  if (!text) return text.error();
  const Json json = Json::parse(*text, nullptr, false);
  StatusPageTicket ticket;
  try {
    ticket = {json.at("port").get<int>(), json.at("token").get<std::string>(), json.at("url").get<std::string>()};
  } catch (const Json::exception& error) {
    return Error{run.status_page_file().string() + ": " + error.what()};
  }
  const bool fits = ticket.token.size() == 64 &&
                    ticket.token.find_first_not_of("0123456789abcdef") == std::string::npos && ticket.port > 0 &&
                    ticket.port < 65536;
  if (!fits) return Error{run.status_page_file().string() + ": it was not written by finesweep"};
  return ticket;
}

Result<std::unique_ptr<OpenStatusPage>> OpenStatusPage::open(const storage::RunDirectory& run,
                                                             const StatusPageOptions& options) {
  StatusPageTicket ticket;
  StatusPageOptions wanted = options;
  if (auto left = read_status_page_ticket(run)) {
    ticket.token = left->token;
    if (options.port == 0) wanted.port = left->port;
  } else {
    const auto secret = random_secret();
    if (!secret) return secret.error();
    ticket.token = to_hex(secret->data(), secret->size());
  }
  auto page = StatusPage::serve(run, wanted, ticket.token);
  if (!page && options.port == 0 && wanted.port != 0) page = StatusPage::serve(run, options, ticket.token);
  if (!page) return page.error();
  ticket.port = (*page)->port();
  std::string host = options.address;
  if (host == "0.0.0.0" || host == "::") host = host_name();
  if (host.find(':') != std::string::npos) host = "[" + host + "]";
  ticket.url = "http://" + host + ":" + std::to_string(ticket.port) + "/?token=" + ticket.token;
  if (const Status written =
          storage::write_file_atomically(run.status_page_file(), write_status_page_ticket(ticket), 0600);
      !written)
    return written.error();
  return std::unique_ptr<OpenStatusPage>(new OpenStatusPage(run, std::move(*page), std::move(ticket)));
}

OpenStatusPage::OpenStatusPage(storage::RunDirectory run, std::unique_ptr<StatusPage> page, StatusPageTicket ticket)
    : run_(std::move(run)), page_(std::move(page)), ticket_(std::move(ticket)) {}

OpenStatusPage::~OpenStatusPage() {
  std::error_code ignored;
  std::filesystem::remove(run_.status_page_file(), ignored);
}

}  // namespace finesweep::coordinator
