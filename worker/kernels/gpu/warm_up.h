#pragma once

#include <c10/core/Device.h>

namespace finesweep::worker::gpu {

/// Begins to load, on a thread of its own, what the first pass on a GPU would wait for: cuBLASLt's products and
/// cuDNN's attention, which takes seconds to be there. Once in a process.
void begin_warm_up(c10::Device device);
/// Waits until that is done, if it was begun: while work is captured no other thread may load anything.
void finish_warm_up();

}  // namespace finesweep::worker::gpu
