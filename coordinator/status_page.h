#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "jobs/result.h"
#include "storage/run_directory.h"

namespace finesweep::coordinator {

struct StatusPageOptions {
  /// An IP address of this host. Only the loopback address keeps other hosts out.
  std::string address = "127.0.0.1";
  int port = 0;  // 0: any that is free
  /// Within this time a connection has sent a request, and taken the answer to it.
  std::chrono::milliseconds time_limit{10000};
  /// Further ones are closed at once.
  int max_connections = 32;
};

/// The page of a running sweep, for a browser: HTTP/1.1 from a thread of its own, which reads status.json and
/// report.html of the run directory and nothing else. Nothing can be changed through it.
///
/// Every request has to show the token: as ?token=…, which / answers with a cookie, or by that cookie. Whoever
/// does not is told so (403) and nothing more. Requests of more than 8 KiB, with a body, or with a method other
/// than GET and HEAD are refused.
class StatusPage {
 public:
  /// The Error names the address. `token`: only letters and digits.
  static Result<std::unique_ptr<StatusPage>> serve(const storage::RunDirectory& run,
                                                   const StatusPageOptions& options, const std::string& token);
  /// Closes all connections.
  ~StatusPage();

  int port() const;

 private:
  struct Impl;
  explicit StatusPage(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// status-page.json in a run directory: where the page is, for who may read the file.
struct StatusPageTicket {
  int port = 0;
  std::string token;
  std::string url;  // with the token
};
std::string write_status_page_ticket(const StatusPageTicket& ticket);
/// Nothing where there is none, or none that makes sense.
Result<StatusPageTicket> read_status_page_ticket(const storage::RunDirectory& run);

/// The page while it lives, and status-page.json, which only its owner may read. What a coordinator that was killed
/// left there is used again, token and, where it is free, port: a page that is open goes on.
class OpenStatusPage {
 public:
  static Result<std::unique_ptr<OpenStatusPage>> open(const storage::RunDirectory& run,
                                                      const StatusPageOptions& options);
  /// Removes the file.
  ~OpenStatusPage();
  const StatusPageTicket& ticket() const { return ticket_; }

 private:
  OpenStatusPage(storage::RunDirectory run, std::unique_ptr<StatusPage> page, StatusPageTicket ticket);

  storage::RunDirectory run_;
  std::unique_ptr<StatusPage> page_;
  StatusPageTicket ticket_;
};

}  // namespace finesweep::coordinator
