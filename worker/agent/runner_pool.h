#pragma once

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "worker/agent/job_runner.h"

namespace finesweep::worker {

/// Runner processes (finesweep-runner), children of this one over a socketpair.
///
/// On a GPU a runner serves pack after pack, so that the base model stays loaded. On a CPU every pack gets a
/// process of its own, since a job's peak memory is that of a runner that started it cold; the next one is started
/// while the current pack runs. On a GPU the next pack's process is also given that pack (prepare), so that nobody
/// waits for data or model: two runners take turns, where there is memory for both, once both are warm. A new one
/// has loaded libtorch and has made some pack ready for nothing before a pack depends on it. Where packs are so
/// brief that making one ready takes as long as they do, three take turns. Packs that follow one that took little
/// are made ready at once, others when the running one is under way. The next pack may begin while the one before
/// it still writes its artifacts. A runner that dies costs the attempts it was working on, and is replaced.
///
/// A job on several devices of the host gets a process on each: this one's own, which leads, and helpers for as
/// long as the attempt lasts. The leader's result is the attempt's. Where one process dies, fails or falls silent,
/// all are ended and the attempt has failed, by what befell the first; that others then lost it counts only where
/// nothing else did.
///
/// Create and use on the main thread: a runner ends when the thread that started it does.
class RunnerPool final : public JobRunner {
 public:
  struct Options {
    /// The program.
    std::string program;
    /// "cpu" or "cuda:<index>"; a runner sees only its own GPU.
    std::string device = "cpu";
    /// One of several processes that gave no sign of life for so long is taken for dead.
    std::chrono::milliseconds silence = std::chrono::seconds(15);
    /// Packs shorter than this leave hardly the time to make another one ready.
    std::chrono::milliseconds brief{100};
  };
  RunnerPool(boost::asio::io_context& io, Options options);
  ~RunnerPool() override;

  void set_callbacks(Callbacks callbacks) override;
  void start(const Execute& execute) override;
  void prepare(const std::vector<Execute>& next, bool under_way) override;
  void request_stop(const std::vector<AttemptKey>& attempts) override;
  void kill(const AttemptKey& attempt, const std::string& reason) override;
  void release_device() override;
  void shut_down() override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace finesweep::worker
