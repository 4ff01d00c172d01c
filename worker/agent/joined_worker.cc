#include "worker/agent/joined_worker.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <memory>
#include <optional>
#include <utility>

#include "jobs/join.h"
#include "storage/files.h"
#include "storage/run_directory.h"
#include "worker/agent/agent.h"
#include "worker/agent/runner_pool.h"
#include "worker/agent/tcp_coordinator_link.h"

namespace finesweep::worker {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kHandshakeLimit{5000}, kBetweenTries{500}, kFarewell{1000};
constexpr int kEndedAtOnce = 3;

/// Why there is no coordinator to work for.
struct Failure {
  std::string message;
  bool hopeless = false;  // trying again will not help
  bool ticket_gone = false;
};

class JoinedWorker {
 public:
  explicit JoinedWorker(const JoinedWorkerOptions& options) : options_(options) {}

  int run() {
    while (true) {
      renew_loop();
      Failure failure;
      const auto link = look_for_coordinator(failure);
      if (leaving_) return 0;
      if (!link) {
        if (joined_before_ && failure.ticket_gone) {
          spdlog::info("the sweep is over, or its coordinator has stopped: {} is gone", options_.ticket.string());
          return 0;
        }
        spdlog::error("{}", failure.message);
        return failure.hopeless ? 2 : 4;
      }
      spdlog::info("joined the sweep in {}", run_directory_);
      joined_before_ = true;
      if (work(*link)) {
        spdlog::info("{}", leaving_ ? "left the sweep" : "the coordinator has no more work");
        return 0;
      }
      if (leaving_) return 0;
      spdlog::warn("the connection to the coordinator is lost; joining again as soon as one is there");
    }
  }

 private:
  /// One event loop for each coordinator: nothing of one stay is left in the next.
  struct Loop {
    boost::asio::io_context io;
    boost::asio::signal_set signals{io, SIGINT, SIGTERM};
  };

  void renew_loop() {
    auto next = std::make_unique<Loop>();  // beside the old one, so that no signal is missed
    loop_ = std::move(next);
    await_signal();
  }

  void await_signal() {
    loop_->signals.async_wait([this](const boost::system::error_code& error, int) {
      if (error) return;
      if (leaving_) _exit(kEndedAtOnce);  // the runner ends with this process
      leaving_ = true;
      spdlog::info("leaving: what runs writes a checkpoint (again: end at once)");
      if (agent_)
        agent_->leave();
      else
        loop_->io.stop();
      await_signal();
    });
  }

  /// Null where there is none, or this worker is to leave.
  std::unique_ptr<TcpCoordinatorLink> look_for_coordinator(Failure& failure) {
    const auto until = Clock::now() + options_.patience;
    while (!leaving_) {
      auto link = try_to_join(failure);
      if (link) return link;
      if (failure.hopeless || Clock::now() > until) break;
      if (!leaving_) pause();
    }
    if (!failure.hopeless)
      failure.message =
          "no coordinator was found within " +
          std::to_string(std::chrono::duration_cast<std::chrono::seconds>(options_.patience).count()) +
          " s: " + failure.message + ". Does the sweep run, with --join-port?";
    return nullptr;
  }

  void pause() {
    loop_->io.restart();
    loop_->io.run_for(kBetweenTries);
  }

  std::unique_ptr<TcpCoordinatorLink> try_to_join(Failure& failure) {
    const auto ticket = read_ticket(options_.ticket, failure);
    if (!ticket) return nullptr;
    // Jobs read and write there.
    const auto there = storage::RunDirectory(ticket->run_directory).join_file();
    std::error_code ignored;
    if (!std::filesystem::exists(there, ignored) && std::filesystem::exists(options_.ticket, ignored)) {
      failure = {
          ticket->run_directory + ": not seen from this host; the run directory must be shared, at the same path",
          true};
      return nullptr;
    }
    auto link = TcpCoordinatorLink::connect(loop_->io, *ticket, kHandshakeLimit);
    if (!link) {
      failure = {link.error().message};
      return nullptr;
    }
    run_directory_ = ticket->run_directory;
    return std::move(*link);
  }

  static std::optional<JoinTicket> read_ticket(const std::filesystem::path& file, Failure& failure) {
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored)) {
      failure = {"there is no " + file.string(), false, true};
      return std::nullopt;
    }
    const auto text = storage::read_file(file);
    if (!text) {
      failure = {text.error().message, true};
      return std::nullopt;
    }
    const auto ticket = parse_join_ticket(*text, file.string());
    if (!ticket) {
      failure = {ticket.error().message, true};
      return std::nullopt;
    }
    return *ticket;
  }

  /// True where the coordinator let this worker go, or the worker left; false where the coordinator is gone.
  bool work(TcpCoordinatorLink& link) {
    auto& io = loop_->io;
    RunnerPool runners(io, {options_.runner, options_.device});
    Agent agent(io, link, runners, {Hello{options_.host, getpid(), 0, options_.device}});
    agent_ = &agent;
    io.restart();
    agent.start();
    io.run();
    agent_ = nullptr;
    link.flush(kFarewell);
    return !agent.deserted();
  }

  const JoinedWorkerOptions options_;
  std::unique_ptr<Loop> loop_;
  Agent* agent_ = nullptr;
  std::string run_directory_;
  bool leaving_ = false, joined_before_ = false;
};

}  // namespace

int work_joined(const JoinedWorkerOptions& options) {
  return JoinedWorker(options).run();
}

}  // namespace finesweep::worker
