#include "coordinator/control_call.h"

#include <thread>

#include "coordinator/run_results.h"
#include "storage/control.h"

namespace finesweep::coordinator {

Result<std::optional<Json>> ask_coordinator(const storage::RunDirectory& run, const std::string& kind,
                                            const Json& payload, std::chrono::seconds patience) {
  const auto id = storage::put_request(run.control(), kind, payload);
  if (!id) return id.error();
  const auto until = std::chrono::steady_clock::now() + patience;
  bool running = true;
  while (running && std::chrono::steady_clock::now() < until) {
    // Looked at before the answer: a sweep that has ended answers nothing any more.
    running = is_running(run);
    auto answer = storage::take_answer(run.control(), *id);
    if (!answer || *answer) return answer;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  static_cast<void>(storage::withdraw_request(run.control(), *id));
  if (!running) return std::optional<Json>();
  return Error{"the running sweep did not answer in time; is it alive? `finesweep status " + run.path().string() +
               "`"};
}

}  // namespace finesweep::coordinator
