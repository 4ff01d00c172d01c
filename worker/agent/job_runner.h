#pragma once

#include <functional>
#include <string>
#include <vector>

#include "jobs/messages.h"

namespace finesweep::worker {

/// Runs one pack after the other for the agent: in the program a child process (runner_pool.h). All calls and
/// callbacks are on the thread of the agent's event loop.
class JobRunner {
 public:
  struct Callbacks {
    /// Once: what the device is (worker/executor.h, describe_device); an empty object where the runner cannot say.
    std::function<void(const Json& device)> ready;
    std::function<void(const AttemptKey&, const Progress&)> progress;
    /// Exactly once for every member of a start(). `crashed`: the process died under it.
    std::function<void(const AttemptKey&, Outcome, bool crashed)> finished;
    /// The pack has work for a while and would share the device, if there is room: who runs with it from now on, as
    /// though they had been members from the start. Mostly nobody.
    std::function<std::vector<Execute::Member>()> has_room = {};
    /// Of the pack that runs only results are still to come, and the first of what prepare() was last called with
    /// is ready: it may be started now, beside them.
    std::function<void()> computed = {};
  };
  virtual ~JobRunner() = default;
  virtual void set_callbacks(Callbacks callbacks) = 0;
  /// Not called again before every member has `finished`, or all have `computed`. Where the job names several
  /// devices (it is then alone in its pack), a process works on each, and all end where one does.
  virtual void start(const Execute& execute) = 0;
  /// What start() will probably be called with next, in that order: on a GPU the first ones may be made ready
  /// beside the pack that runs. Called again with something else, that takes its place. `under_way`: the running
  /// pack has worked for a while, so that the device shows what it needs.
  virtual void prepare(const std::vector<Execute>& next, bool under_way) = 0;
  /// Ask these members (none named: all) to write a checkpoint and finish as interrupted. Who has computed is not
  /// asked: its end is near.
  virtual void request_stop(const std::vector<AttemptKey>& attempts) = 0;
  /// End the pack of this attempt at once; what is not done finishes as crashed, with `reason` for the user.
  virtual void kill(const AttemptKey& attempt, const std::string& reason) = 0;
  /// Another worker needs the device: let go of what an idle process keeps on it.
  virtual void release_device() = 0;
  /// Nothing more will be started: let go of idle processes.
  virtual void shut_down() = 0;
};

}  // namespace finesweep::worker
