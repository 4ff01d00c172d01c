#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

#include "jobs/result.h"

namespace finesweep::worker {

/// Work for a GPU that was recorded once and is given to it again and again in one call (a CUDA graph): the device
/// no longer waits for the host between kernels. A replay reads and writes the same memory as the capture did, so
/// what changes from one to the next stands in tensors that were made before the capture and live as long as the
/// graph.
///
/// All graphs of a process take their temporary memory from one pool, so they must not overlap: they are replayed
/// on one stream, and nothing that a replay leaves in temporary memory is read after the next replay of another
/// graph.
class CapturedGraph {
 public:
  /// Whether this process can capture: libfinesweep-graph.so was found and libtorch's CUDA library is loaded. Why
  /// not is said once on stderr.
  static bool available();

  /// Runs `work` on the stream that captures, for real: what libraries set up at their first call (handles,
  /// workspaces, kernels) is then there for a capture. Later work of the current stream waits for it. Exceptions
  /// pass through.
  static void warm_up(c10::Device device, const std::function<void()>& work);

  /// Records `work`, which is not done. It may neither wait for the device (item(), copies to the CPU) nor copy
  /// from memory that the host may page out, and a tensor that it makes and keeps holds what it left only until
  /// another graph is replayed. It may be recorded twice, where memory lacks at first. The Error says why it cannot
  /// be captured, be it that `work` threw; the device is then as it was.
  static Result<CapturedGraph> capture(c10::Device device, const std::function<void()>& work);

  /// Gives the work to the current stream.
  void replay() const;

 private:
  static Result<CapturedGraph> capture_once(c10::Device device, const std::function<void()>& work);

  struct Handle;
  std::shared_ptr<Handle> handle_;
};

}  // namespace finesweep::worker
