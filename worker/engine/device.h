#pragma once

#include <c10/core/Device.h>

#include <string>

#include "jobs/result.h"

namespace finesweep::worker {

/// "cpu" or "cuda:0". The Error says what is wrong with the name, or that the device is not there.
Result<c10::Device> find_device(const std::string& name);

/// Waits until the device has done what it was given. Nothing on a CPU.
void synchronize(c10::Device device);

/// Peaks are counted from here on. Nothing on a CPU, where the peak is that of the process.
void begin_memory_peak(c10::Device device);
/// The same on a CPU too. False where the kernel does not let a process forget its peak: peak_memory_mb() is then
/// still that since the process began.
bool restart_memory_peak(c10::Device device);
/// On a GPU the peak of allocated bytes, on a CPU that of the process's resident memory.
double peak_memory_mb(c10::Device device);
/// Gives back what the allocator keeps for reuse.
void release_cached_memory(c10::Device device);
/// Of a GPU's memory, the share that nobody uses. Of a CPU 1.
double free_share(c10::Device device);
/// The share of this process's tensors, what its allocator has for them, and what that had at most since
/// begin_memory_peak(). Of a CPU 0.
struct OwnShare {
  double now = 0, reserved = 0, peak = 0;
};
OwnShare own_share(c10::Device device);

}  // namespace finesweep::worker
